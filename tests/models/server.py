"""A small OpenAI-compatible server on this machine that fails the way a test tells it to."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """Answers chat completions with the prompt and seed, after the scripted failures are used up.

    ``script``: one entry a request: (status, headers, body) or "hang up".
    """

    def __init__(self, script=()):
        self.script, self.requests, self.keys, self.max_at_once = list(script), [], [], 0
        self._lock, self._busy = threading.Lock(), 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                outer._answer(self)

            def log_message(self, *_):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()

    def _answer(self, http):
        request = json.loads(http.rfile.read(int(http.headers["Content-Length"])))
        with self._lock:
            self.requests.append(request)
            self.keys.append(http.headers["Authorization"])
            step = self.script.pop(0) if self.script else None
            self._busy += 1
            self.max_at_once = max(self.max_at_once, self._busy)
        if step == "hang up":
            http.close_connection = True
            http.connection.close()
        elif step:
            self._send(http, *step)
        else:
            text = f" {request['messages'][0]['content']} / {request['seed']} "
            message = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [message]}
            self._send(http, 200, {}, json.dumps(body))
        with self._lock:
            self._busy -= 1

    @staticmethod
    def _send(http, status, headers, body):
        http.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body.encode())),
            **headers,
        }.items():
            http.send_header(name, value)
        http.end_headers()
        http.wfile.write(body.encode())
