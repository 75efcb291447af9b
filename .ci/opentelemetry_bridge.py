# SPDX-License-Identifier: MIT
"""`TracingEventSink` through OpenTelemetry's own handler: an event's parts arrive as fields, its payload as a mapping.

Run by ``.ci/run`` with orch_events, opentelemetry-sdk and opentelemetry-instrumentation-logging installed.
"""

import logging
import tempfile
from pathlib import Path

from opentelemetry.instrumentation.logging.handler import LoggingHandler
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

from orch_events import EventLog, TracingEventSink

PAYLOAD = {"step": "qa", "success": True, "tags": ("a", 0.5), "nested": {"n": 1}, "nothing": None}

exporter = InMemoryLogRecordExporter()
provider = LoggerProvider()
provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
logger = logging.getLogger("orch_events")
logger.addHandler(LoggingHandler(logger_provider=provider))
logger.setLevel(logging.INFO)

with (
    tempfile.TemporaryDirectory() as folder,
    EventLog(Path(folder, "events.db"), sink=TracingEventSink()) as log,
):
    log.insert_event("t", "i", "step_finished", PAYLOAD)
    log.insert_event("t", None, "task_failed", {})
    log.insert_event("t", None, "step_heartbeat", {})  # DEBUG, which is off

finished, failed = (exported.log_record for exported in exporter.get_finished_logs())
fields, fewer = dict(finished.attributes or {}), dict(failed.attributes or {})
expected = {"task_id": "t", "task_item_id": "i", "event_type": "step_finished", "payload": PAYLOAD}
assert {name: fields.get(name) for name in expected} == expected, fields
assert isinstance(finished.body, str) and finished.body.startswith(
    "workflow event step_finished t/i {"
), finished.body
assert (finished.severity_text, failed.severity_text) == ("INFO", "ERROR")
assert (fewer["task_id"], fewer.get("task_item_id"), fewer["payload"]) == ("t", None, {}), fewer
print("OpenTelemetry has task_id, task_item_id, event_type and payload as fields")
