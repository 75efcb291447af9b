# SPDX-License-Identifier: MIT
"""How large a recorded event may be, so that everything recorded can be read, archived and restored in bounded memory."""

from typing import Final

MAX_DEPTH: Final = 127
"""Containers that a payload may nest; serde_json refuses the 128th."""

MAX_EVENT_BYTES: Final = 16 << 20
"""Longest event that can be recorded: as one line of JSON, the form it has in an archive, in
UTF-8.
"""

MAX_LINE_BYTES: Final = 2 * MAX_EVENT_BYTES
"""Longest line of an archive: room for other spellings of an event, and for larger rows of other
programs.
"""

MAX_NAME_BYTES: Final = 64 << 10
"""Longest task id, item id or event type, in UTF-8. Code that sorts and groups names relies on
it.
"""

MAX_VALUES: Final = 1_000_000
"""Most values in a recorded payload. Each can take up to 100 times its text in memory when it is
read. `has_many_values` says how they are counted.
"""

NAMES_SURELY_FIT: Final = MAX_NAME_BYTES // 4
"""Characters: names that are together no longer are within the limit, since one takes at most four
bytes.
"""

TEXTS_SURELY_FIT: Final = MAX_VALUES
"""Characters: an event with texts that are together no longer is within all limits, since one takes
at most six bytes.
"""
