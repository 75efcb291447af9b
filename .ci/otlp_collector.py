# SPDX-License-Identifier: MIT
"""``trace --format otlp`` as others read it: by the protocol's own definition, and through a real collector.

Run by ``.ci/run`` with orch_events, opentelemetry-proto and rotel (a collector) installed. The collector gets what the
command prints, and passes it on to a server here: what arrives must be what was sent.
"""

import base64
import contextlib
import gzip
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import rotel
from google.protobuf.json_format import Parse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
PROGRAM = [sys.executable, "-m", "orch_events"]


def exported(folder: str) -> str:
    """What is printed of a task with a nested step, a failed one, and one that has not ended."""
    environment = {**os.environ, "TRACEPARENT": f"00-{TRACE}-{CALLER}-01"}
    inner = f"{sys.executable} -m orch_events run --step inner --item 'ä' -- true"
    for step, command in (("outer", inner), ("bad", "exit 3")):
        words = ["run", "--task", "build", "--step", step, "--", "sh", "-c", command]
        subprocess.run([*PROGRAM, *words], cwd=folder, env=environment, check=False)
    subprocess.run([*PROGRAM, "emit", "build", "step_started", "step=open"], cwd=folder, check=True)
    done = subprocess.run(
        [*PROGRAM, "trace", "build", "--format", "otlp"],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def parsed(text: str) -> ExportTraceServiceRequest:
    """The message, by its definition, which takes no unknown name. Its reader takes ids for base64, where the protocol has hex."""
    value = json.loads(text)
    for span in spans_of(value):
        for key in ("traceId", "spanId", "parentSpanId"):
            span[key] = base64.b64encode(bytes.fromhex(span[key])).decode()
    return Parse(json.dumps(value), ExportTraceServiceRequest())


def spans_of(value: Any) -> list[Any]:
    (resource,) = value["resourceSpans"]
    (scope,) = resource["scopeSpans"]
    return list(scope["spans"])


def check(message: ExportTraceServiceRequest) -> None:
    (resource,) = message.resource_spans
    (scope,) = resource.scope_spans
    root, *runs = scope.spans
    assert {span.trace_id.hex() for span in scope.spans} == {TRACE}
    assert (root.name, root.parent_span_id.hex()) == ("build", CALLER)
    assert [span.name for span in runs] == ["outer", "inner", "bad", "open"]
    outer, inner, bad, still_open = runs
    assert inner.parent_span_id == outer.span_id and outer.parent_span_id == root.span_id
    assert [span.status.code for span in runs] == [
        Status.STATUS_CODE_UNSET,
        Status.STATUS_CODE_UNSET,
        Status.STATUS_CODE_ERROR,
        Status.STATUS_CODE_UNSET,
    ]
    known = {pair.key: pair.value for pair in bad.attributes}
    assert known["error.type"].string_value == "3" and known["process.exit.code"].int_value == 3
    assert any(pair.key == "orch_events.unfinished" for pair in still_open.attributes)
    for span in scope.spans:
        assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano


class Receiver(BaseHTTPRequestHandler):
    """Takes what the collector passes on."""

    bodies: SimpleQueue[bytes] = SimpleQueue()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.bodies.put(body)
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def collector(folder: str, target: int) -> Iterator[str]:
    """The URL of a collector that passes all on."""
    port = free_port()
    program = str(Path(rotel.__file__).with_name("rotel-agent"))
    words = [
        "start",
        f"--pid-file={folder}/pid",
        f"--log-file={folder}/log",
        f"--otlp-http-endpoint=127.0.0.1:{port}",
        f"--otlp-grpc-endpoint=127.0.0.1:{free_port()}",
        "--exporter=otlp",
        "--otlp-exporter-protocol=http",
        f"--otlp-exporter-endpoint=http://127.0.0.1:{target}",
    ]
    with subprocess.Popen([program, *words]) as process:
        try:
            yield f"http://127.0.0.1:{port}/v1/traces"
        finally:
            process.terminate()


def send(url: str, text: str) -> int:
    """As ``curl`` would, once the collector listens."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, text.encode(), headers)
    for _ in range(300):
        try:
            with urllib.request.urlopen(request) as response:
                return int(response.status)
        except (ConnectionError, urllib.error.URLError):
            time.sleep(0.1)
    raise TimeoutError("the collector does not answer")


with tempfile.TemporaryDirectory() as folder:
    text = exported(folder)
    assert text.count("\n") == 1
    sent = parsed(text)
    check(sent)
    server = HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with collector(folder, server.server_address[1]) as url:
        assert send(url, text) == 200
        arrived = ExportTraceServiceRequest.FromString(Receiver.bodies.get(timeout=60))
    server.shutdown()
    assert arrived.resource_spans[0].scope_spans == sent.resource_spans[0].scope_spans
    check(arrived)
