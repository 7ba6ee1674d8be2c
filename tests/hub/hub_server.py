"""A server on this machine that speaks as much of the Hub's API as the real client asks of it to publish and load.

    with HubServer(tokens={"hf_writer": ["org"], "hf_reader": []}) as hub:
        subprocess.run(..., env=hub.environment(home, "hf_writer"))

Repositories are in memory: commits with their files, and what was uploaded as large files, by git's protocol: the
client must be told not to speak Xet.
"""

import base64
import hashlib
import json
import os
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

LARGE = (".safetensors", ".onnx", ".data", ".bin")


@dataclass
class Repository:
    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch, files):
        oid = hashlib.sha1(f"{len(self.commits)}{branch}".encode()).hexdigest()
        self.commits.append((oid, files))
        self.branches[branch] = oid
        return oid

    def find(self, revision):
        oid = self.branches.get(revision, revision)
        return next(((oid, files) for known, files in self.commits if known == oid), None)


class HubServer:
    """See above.

    Args:
        tokens: The organizations that each token may write to.
    """

    def __init__(self, tokens):
        self.tokens, self.repositories, self.blobs = tokens, {}, {}
        self.requests = []
        self.lock = threading.Lock()
        # Large files of which the first attempts to upload are cut off.
        self.fail_uploads = 0
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home, token):
        """The environment of a process whose client talks to this server, also where the tests run offline."""
        client = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_TOKEN": token}
        return {**os.environ, **client, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}

    def files(self, repo, revision="main"):
        return self.repositories[repo].find(revision)[1]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.route("GET")

    def do_HEAD(self):
        self.route("HEAD")

    def do_POST(self):
        self.route("POST")

    def do_PUT(self):
        self.route("PUT")

    # ---- answers

    def answer(self, status, value=None, headers=None, body=None):
        body = body if body is not None else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code, message):
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self.answer(status, {"error": message}, headers)

    def route(self, method):
        path = unquote(urlparse(self.path).path)
        length = int(self.headers.get("Content-Length") or 0)
        self.body = self.rfile.read(length) if length else b""
        self.hub.requests.append((method, path))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.hub.tokens:
            return self.refuse(401, "", "Invalid credentials")
        self.organizations = self.hub.tokens.get(token)
        for pattern, name in ROUTES.items():
            if match := re.fullmatch(pattern, f"{method} {path}"):
                return getattr(self, name)(**match.groupdict())
        return self.refuse(404, "", f"{method} {path} is not known here")

    def repository(self, repo):
        """The repository, if this token may see it; else the refusal is sent."""
        found = self.hub.repositories.get(repo)
        hidden = found is not None and found.private and repo.split("/")[0] not in (self.organizations or [])
        if found is None or hidden:
            status = 404 if self.organizations is not None else 401
            self.refuse(status, "RepoNotFound", "Repository not found")
            return None
        return found

    def may_write(self, repo):
        if self.organizations is None:
            self.refuse(401, "", "Invalid username or password.")
        elif repo.split("/")[0] not in self.organizations:
            self.refuse(403, "", "You don't have the rights to do this")
        else:
            return True
        return False

    # ---- routes

    def whoami(self):
        if self.organizations is None:
            return self.refuse(401, "", "Invalid credentials")
        return self.answer(200, {"type": "user", "name": "someone", "orgs": [], "auth": {}})

    def create(self):
        wanted = json.loads(self.body)
        repo = f"{wanted.get('organization') or 'someone'}/{wanted['name']}"
        if not self.may_write(repo):
            return None
        url = {"url": f"{self.hub.url}/{repo}"}
        if repo in self.hub.repositories:
            return self.answer(409, {"error": "You already created this model repo", **url})
        private = wanted.get("private") or wanted.get("visibility") == "private"
        repository = self.hub.repositories[repo] = Repository(bool(private))
        repository.commit("main", {".gitattributes": b""})
        return self.answer(200, url)

    def branch(self, repo, revision):
        if (repository := self.repository(repo)) is None or not self.may_write(repo):
            return None
        if revision in repository.branches:
            return self.answer(409, {"error": "Reference already exists"})
        repository.branches[revision] = repository.branches["main"]
        return self.answer(200, {})

    def validate(self):
        return self.answer(200, {"errors": [], "warnings": []})

    def preupload(self, repo, revision):
        if self.repository(repo) is None or not self.may_write(repo):
            return None
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(self.body)["files"]
        ]
        return self.answer(200, {"files": files})

    def batch(self, repo):
        if not self.may_write(repo):
            return None
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            known = wanted["oid"] in self.hub.blobs
            upload = {"actions": {"upload": {"href": f"{self.hub.url}/upload/{wanted['oid']}"}}}
            objects.append({**wanted, **({} if known else upload)})
        return self.answer(200, {"transfer": "basic", "objects": objects})

    def upload(self, oid):
        with self.hub.lock:  # the client uploads by several threads
            cut_off = self.hub.fail_uploads > 0
            self.hub.fail_uploads -= cut_off
        if cut_off:
            return self.refuse(507, "", "The disk is full")
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.blobs[oid] = self.body
        return self.answer(200, {})

    def commit(self, repo, revision):
        if (repository := self.repository(repo)) is None or not self.may_write(repo):
            return None
        with self.hub.lock:  # a run's uploads in the background may meet
            oid = self.add_commit(repository, revision)
        url = f"{self.hub.url}/{repo}/commit/{oid}"
        return self.answer(200, {"commitUrl": url, "commitOid": oid, "hookOutput": ""})

    def add_commit(self, repository, revision):
        _, before = repository.find(revision)
        files = dict(before)
        for line in self.body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        return repository.commit(revision, files)

    def info(self, repo, revision="main"):
        if (repository := self.repository(repo)) is None:
            return None
        if (found := repository.find(revision)) is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        oid, files = found
        siblings = [{"rfilename": name} for name in files]
        return self.answer(200, {"id": repo, "sha": oid, "private": repository.private, "siblings": siblings})

    def tree(self, repo, revision, folder=""):
        if (repository := self.repository(repo)) is None:
            return None
        if (found := repository.find(revision)) is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        folder = folder.strip("/")
        names = [name for name in found[1] if not folder or name.startswith(f"{folder}/")]
        if not names:
            return self.refuse(404, "EntryNotFound", f"{folder} does not exist on {revision}")
        entries = [
            {
                "type": "file",
                "path": name,
                "size": len(found[1][name]),
                "oid": hashlib.sha1(found[1][name]).hexdigest(),
            }
            for name in names
        ]
        return self.answer(200, entries)

    def resolve(self, repo, revision, path):
        if (repository := self.repository(repo)) is None:
            return None
        if (found := repository.find(revision)) is None:
            return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        oid, files = found
        if path not in files:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        body = files[path]
        headers = {
            "X-Repo-Commit": oid,
            "ETag": f'"{hashlib.sha256(body).hexdigest()}"',
            "Content-Type": "application/octet-stream",
            "Access-Control-Allow-Origin": "*",
        }
        return self.answer(200, headers=headers, body=body)


REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
ROUTES = {
    r"GET /api/whoami-v2": "whoami",
    r"POST /api/repos/create": "create",
    r"POST /api/validate-yaml": "validate",
    rf"POST /api/models/{REPO}/branch/(?P<revision>[^/]+)": "branch",
    rf"POST /api/models/{REPO}/preupload/(?P<revision>[^/]+)": "preupload",
    rf"POST /{REPO}\.git/info/lfs/objects/batch": "batch",
    r"PUT /upload/(?P<oid>\w+)": "upload",
    rf"POST /api/models/{REPO}/commit/(?P<revision>[^/]+)": "commit",
    rf"GET /api/models/{REPO}": "info",
    rf"GET /api/models/{REPO}/revision/(?P<revision>[^/]+)": "info",
    rf"GET /api/models/{REPO}/tree/(?P<revision>[^/]+)(?P<folder>/.*)?": "tree",
    rf"(GET|HEAD) /{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)": "resolve",
}
