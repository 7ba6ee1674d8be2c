// Answers questions with an exported student in this browser. Everything it loads lies beside this file: the library in
// vendor/, the model in models/student/.
import { env, pipeline } from "./vendor/transformers.min.js";

env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = "models/"; // relative to the page: the library takes an address for a remote place
env.backends.onnx.wasm.wasmPaths = new URL("vendor/", import.meta.url).href;

const element = (id) => document.getElementById(id);
const fields = { context: element("context"), question: element("question"), ask: element("ask") };

function showProgress({ status, file, loaded, total }) {
  if (status === "progress" && file.endsWith(".onnx") && total) element("progress").value = loaded / total;
}

// Uncased tokenizers give answers in lower case and with other spaces: find where the text has them.
function locate(answer, text) {
  const pieces = answer.trim().split(/\s+/).filter(Boolean);
  if (!pieces.length) return null;
  const escaped = pieces.map((piece) => [...piece].map((c) => c.replace(/[.*+?^${}()|[\]\\/-]/g, "\\$&")).join("\\s*"));
  const match = new RegExp(escaped.join("\\s*"), "iu").exec(text);
  return match && { start: match.index, end: match.index + match[0].length };
}

function showAnswer({ answer, score }, milliseconds) {
  const text = fields.context.value;
  const place = locate(answer, text);
  element("answer").textContent = place ? text.slice(place.start, place.end) : answer;
  element("details").textContent = `score ${score.toFixed(2)}, ${milliseconds.toFixed(0)} ms on this device`;
  const passage = element("passage");
  passage.textContent = text;
  if (place) {
    const mark = document.createElement("mark");
    mark.textContent = text.slice(place.start, place.end);
    passage.replaceChildren(text.slice(0, place.start), mark, text.slice(place.end));
  }
  element("result").hidden = false;
}

async function answer(answerer) {
  if (!fields.question.value.trim() || !fields.context.value.trim()) {
    element("status").textContent = "Write a text and a question first.";
    return;
  }
  fields.ask.disabled = true;
  element("status").textContent = "Reading …";
  try {
    const start = performance.now();
    const found = await answerer(fields.question.value, fields.context.value);
    showAnswer(found, performance.now() - start);
    element("status").textContent = "";
  } catch (error) {
    element("status").textContent = `That did not work: ${error.message}`;
  } finally {
    fields.ask.disabled = false;
  }
}

try {
  const answerer = await pipeline("question-answering", "student", { dtype: "q8", progress_callback: showProgress });
  element("status").textContent = "Ready.";
  fields.ask.disabled = false;
  element("form").addEventListener("submit", (event) => {
    event.preventDefault();
    answer(answerer);
  });
} catch (error) {
  element("status").textContent = `The model could not be loaded: ${error.message}`;
} finally {
  element("progress").hidden = true;
}
