# SPDX-License-Identifier: MIT
"""The tests of orch_events: one module for each promise, `helpers` for what they share.

Beyond examples and properties: every call to the storage fails once, of each kind (`test_every_call_fails`); the commit
queue and the watcher run through a hundred thousand schedules, each from a seed, in simulated time, with interruptions
and forks (`test_schedules`, `test_watcher_schedules`); processes are killed, and a judge that knows nothing of the
library reads what was called and answered (`torture`, `history`); power is cut between any two writes
(`test_power_cuts`); an exception or a signal comes at each line (`test_interrupts`); mutants show what the tests would
miss (`mutants`), and `soak` whether anything grows.
"""
