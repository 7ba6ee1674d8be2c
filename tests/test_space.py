"""The page that answers questions on the device, in a real browser."""

import json
import os
import runpy
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mobilebert_hf.deployment import export

from .deployment.helpers import save

ASSEMBLE = Path(__file__).parents[1] / "recipes" / "space" / "assemble.py"
PACKAGES = ("@huggingface/transformers@4.3", "@sparticuz/chromium@147", "puppeteer-core@24")
QUESTION, CONTEXT = "Which river is long?", "The RIVER is long. The mountain is long."
HARD_CONTEXTS = [
    "a 10-year plan",
    "The singer Beyoncé was born in Houston.",
    "Paris, Texas, is small. The Eiffel Tower is in Paris.",
    "The U.S. is big - and [SEP] C++ (about $5).",
    "in 東京 today",
]

# Asks the page, and tells what it showed, what it said, and what it loaded.
VISIT = """
import chromium from "@sparticuz/chromium";
import puppeteer from "puppeteer-core";
const [url, question, context, picture, contexts] = process.argv.slice(2);
const browser = await puppeteer.launch({
  args: [...chromium.args, "--no-sandbox"], executablePath: await chromium.executablePath(), headless: "shell",
});
const page = await browser.newPage();
await page.setViewport({ width: 900, height: 900 });
const seen = { requests: [], errors: [] };
page.on("request", (request) => seen.requests.push(request.url()));
page.on("pageerror", (error) => seen.errors.push(error.message));
await page.goto(url);
await page.waitForFunction(() => !document.getElementById("ask").disabled, { timeout: 120000 });
await page.click("#ask");  // about its own text, of more tokens than the model takes
await page.waitForSelector("#result:not([hidden])", { timeout: 120000 });
await page.waitForFunction(() => !document.getElementById("ask").disabled);
await page.$eval("#context", (field, text) => { field.value = text; }, context);
await page.$eval("#question", (field, text) => { field.value = text; }, question);
await page.click("#ask");
await page.waitForFunction(
  (context) => document.getElementById("passage").textContent === context, { timeout: 120000 }, context,
);
const text = (id) => page.$eval(id, (element) => element.textContent);
seen.answer = await text("#answer");
seen.details = await text("#details");
seen.marked = await text("mark");
seen.passage = await text("#passage");
seen.hard = [];
for (const context of JSON.parse(contexts)) {
  await page.$eval("#context", (field, text) => { field.value = text; }, context);
  await page.click("#ask");
  await page.waitForFunction(
    (context) => document.getElementById("passage").textContent === context, { timeout: 120000 }, context,
  );
  await page.waitForFunction(() => !document.getElementById("ask").disabled);
  const [answer, marked, passage] = await Promise.all([text("#answer"), text("mark"), text("#passage")]);
  seen.hard.push({ answer, marked, passage, errors: [...seen.errors] });
}
await page.$eval("#question", (field) => { field.value = " "; });
await page.click("#ask");
seen.status = await text("#status");
await page.screenshot({ path: picture });
await browser.close();
console.log(JSON.stringify(seen));
"""


def assemble(*words):
    return subprocess.run([sys.executable, ASSEMBLE, *map(str, words)], capture_output=True, text=True)


@pytest.mark.slow
def test_the_page_answers_in_a_browser(exported, tmp_path):
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("there is no npm")
    install = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(tmp_path), *PACKAGES]
    installed = subprocess.run(install, capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"npm could not install {', '.join(PACKAGES)}: {installed.stderr[-500:]}")
    space = tmp_path / "space"
    assembled = assemble(exported("onnx", "int8"), space, "--modules", tmp_path / "node_modules")
    assert assembled.returncode == 0, assembled.stderr
    (tmp_path / "visit.mjs").write_text(VISIT)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=space))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    command = ["node", tmp_path / "visit.mjs", f"{url}/index.html", QUESTION, CONTEXT, tmp_path / "page.png"]
    command.append(json.dumps(HARD_CONTEXTS))
    visited = subprocess.run(command, capture_output=True, text=True, timeout=300)
    server.shutdown()
    assert visited.returncode == 0, visited.stderr[-3000:]
    seen = json.loads(visited.stdout.splitlines()[-1])
    assert seen["errors"] == []
    assert all(request.startswith((url, "blob:", "data:")) for request in seen["requests"])
    assert seen["marked"] == seen["answer"] != ""
    assert seen["answer"] in CONTEXT
    assert seen["passage"] == CONTEXT
    assert "ms on this device" in seen["details"]
    assert seen["status"] == "Write a text and a question first."
    assert [len(hard["errors"]) for hard in seen["hard"]] == [0] * len(HARD_CONTEXTS)
    for hard, context in zip(seen["hard"], HARD_CONTEXTS, strict=True):
        assert hard["passage"] == context
        assert hard["marked"] == hard["answer"] != ""
        assert hard["answer"] in context
        assert hard["answer"] == hard["answer"].strip()
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_the_places_of_answers_are_found_in_node(tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no Node.js")
    module = tmp_path / "answers.mjs"  # the page's .js is a module because of the page
    shutil.copyfile(ASSEMBLE.with_name("answers.js"), module)
    command = [node, "--test", str(Path(__file__).with_name("space_answers.mjs"))]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "ANSWERS": str(module)})
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.fixture
def assemble_here():
    """The script in this process."""
    return runpy.run_path(str(ASSEMBLE))["main"]


@pytest.mark.usefixtures("instant_exports")
def test_another_tokenizer_is_refused(assemble_here, tiny_tokenizer, tmp_path):
    export(save(tmp_path / "model", tiny_tokenizer), tmp_path / "exported", "onnx", "int8")
    path = tmp_path / "exported" / "tokenizer.json"
    path.write_text(path.read_text().replace('"type": "WordPiece"', '"type": "Unigram"'))
    with pytest.raises(SystemExit, match="has a Unigram tokenizer: the page finds the places"):
        assemble_here(tmp_path / "exported", tmp_path / "space")


@pytest.mark.usefixtures("instant_exports")
def test_what_is_missing_is_told(assemble_here, tiny_tokenizer, tmp_path):
    export(save(tmp_path / "model", tiny_tokenizer), tmp_path / "exported", "onnx", "int8")
    with pytest.raises(SystemExit, match=r"npm install --ignore-scripts @huggingface/transformers"):
        assemble_here(tmp_path / "exported", tmp_path / "space", modules=tmp_path)
    export(save(tmp_path / "masks", tiny_tokenizer, "ForMaskedLM"), tmp_path / "other")
    with pytest.raises(SystemExit, match="of a student that answers questions"):
        assemble_here(tmp_path / "other", tmp_path / "space")
    assert not (tmp_path / "space").exists()
