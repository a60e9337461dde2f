"""The API server, asked directly: starting kubectl for each question would cost more than the answer."""

import http.client
import json
import ssl
from urllib.parse import urlencode

import certificates
from place import API_PORT, CONTROL_ADDRESS, Failure


class Refused(Failure):
    """The API server answered, but not with what was asked for."""

    def __init__(self, status, text):
        super().__init__(text)
        self.status = status


class Api:
    """As the cluster's administrator."""

    def __init__(self):
        self._context = ssl.create_default_context(cafile=certificates.path("ca"))
        self._context.load_cert_chain(certificates.path("admin"), certificates.path("admin", "key"))

    def _call(self, method, path, body=None, content="application/json", timeout=30):
        connection = http.client.HTTPSConnection(CONTROL_ADDRESS, API_PORT, timeout=timeout, context=self._context)
        try:
            connection.request(method, path, None if body is None else json.dumps(body), {"Content-Type": content})
            answer = connection.getresponse()
            text = answer.read().decode("utf-8")
        except (OSError, http.client.HTTPException) as wrong:
            raise Refused(0, f"{method} {path} at the API server {CONTROL_ADDRESS}:{API_PORT}: {wrong}") from wrong
        finally:
            connection.close()
        if answer.status >= 300:
            raise Refused(answer.status, f"{method} {path} at the API server: {answer.status}: {text[:500]}")
        return text

    def ready(self):
        try:
            return self._call("GET", "/readyz", timeout=10) == "ok"
        except Refused:
            return False

    def get(self, path, **query):
        """None when there is no such object."""
        try:
            return json.loads(self._call("GET", f"{path}?{urlencode(query)}"))
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    def read(self, path, **query):
        """What is not JSON, as a container's log."""
        return self._call("GET", f"{path}?{urlencode(query)}")

    def apply(self, path, body):
        """Makes an object as `body` says, whether it exists or not (server-side apply)."""
        query = urlencode({"fieldManager": "mintmark-cluster", "force": "true"})
        return json.loads(self._call("PATCH", f"{path}?{query}", body, "application/apply-patch+yaml"))

    def merge(self, path, body):
        """Changes what `body` names (JSON merge patch); None when there is no such object."""
        try:
            return json.loads(self._call("PATCH", path, body, "application/merge-patch+json"))
        except Refused as refused:
            if refused.status == 404:
                return None
            raise

    def delete(self, path, **query):
        """True when it was there."""
        try:
            self._call("DELETE", f"{path}?{urlencode(query)}")
            return True
        except Refused as refused:
            if refused.status == 404:
                return False
            raise
