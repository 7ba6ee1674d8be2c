// Finds the place of an answer in a text, in characters. The tokenizers of transformers.js have no offsets: each word is
// tokenized by itself, as WordPiece does, and its tokens have the place of the word.

const CJK =
  "\\u3400-\\u4DBF\\u4E00-\\u9FFF\\uF900-\\uFAFF\\u{20000}-\\u{2A6DF}\\u{2A700}-\\u{2B73F}\\u{2B740}-\\u{2B81F}" +
  "\\u{2B920}-\\u{2CEAF}\\u{2F800}-\\u{2FA1F}";
const PUNCTUATION = "!-\\/:-@\\[-`\\{-~\\p{P}";
const BLANK = "\\t\\n\\r\\p{Z}";
const WORD = new RegExp(`[${CJK}]|[${PUNCTUATION}]|[^${BLANK}${PUNCTUATION}${CJK}]+`, "gu");
// White space, control and format characters at the edges of an answer; format characters from U+E0000 on spell flags.
const HIDDEN = /^[\s\p{Cc}\p{Cf}]$/u;

/** The words of a text, as BERT splits them: `[{start, end}]`, in UTF-16 units. */
export function splitWords(text) {
  return [...text.matchAll(WORD)].map((match) => ({ start: match.index, end: match.index + match[0].length }));
}

/** Start and end of a piece of the text without invisible characters at its edges. */
export function visible(text, start, end) {
  const hidden = (index) => HIDDEN.test(text[index]);
  while (start < end && hidden(start)) start += 1;
  while (start < end && hidden(end - 1)) end -= 1;
  return { start, end };
}

/** The tokens of a text, without special tokens: `[{id, start, end}]`. `[SEP]` in the text is text. */
export function tokenize(text, encode) {
  return splitWords(text).flatMap(({ start, end }) =>
    encode(text.slice(start, end)).map((id) => ({ id, start, end })),
  );
}

/** Windows of a question and a part of the context: `[{ids, types, tokens, first}]`; `first` is the context's index. */
export function makeWindows(question, context, { cls, sep, maxLength, stride }) {
  const asked = question.slice(0, Math.floor(maxLength / 2));
  const room = maxLength - asked.length - 3;
  const windows = [];
  for (let begin = 0; begin < context.length; begin += room - Math.min(stride, Math.floor(room / 2))) {
    const tokens = context.slice(begin, begin + room);
    const ids = [cls, ...asked.map(({ id }) => id), sep, ...tokens.map(({ id }) => id), sep];
    const types = ids.map((_, index) => (index < asked.length + 2 ? 0 : 1));
    windows.push({ ids, types, tokens, first: asked.length + 2 });
    if (begin + room >= context.length) break;
  }
  return windows;
}

/** The best span of a window's context: `{start, end, score}`, in characters, or null without tokens. */
export function bestSpan({ tokens, first }, startLogits, endLogits, maxAnswerTokens = 15) {
  const [starts, ends] = [startLogits, endLogits].map((logits) => probabilities(logits, first, tokens.length));
  let best = null;
  for (let i = 0; i < tokens.length; i += 1) {
    for (let j = i; j < Math.min(tokens.length, i + maxAnswerTokens); j += 1) {
      const score = starts[i] * ends[j];
      if (best === null || score > best.score) best = { start: tokens[i].start, end: tokens[j].end, score };
    }
  }
  return best;
}

// Of the context's tokens, among them and [CLS], which stands for no answer.
function probabilities(logits, first, count) {
  const kept = [logits[0], ...Array.from(logits).slice(first, first + count)].map(Number);
  const highest = Math.max(...kept);
  const exponentials = kept.map((logit) => Math.exp(logit - highest));
  const total = exponentials.reduce((sum, value) => sum + value, 0);
  return exponentials.slice(1).map((value) => value / total);
}

/**
 * The best answer in all windows: `{start, end, score}`, in characters, or null if the context has no words.
 *
 * `encode` gives the ids of a text without special tokens; `run` the logits of a window's ids and token types:
 * `{start, end}`.
 */
export async function findAnswer(question, context, { encode, run, ...sizes }) {
  let best = null;
  const [asked, read] = [question, context].map((text) => tokenize(text, encode));
  for (const window of makeWindows(asked, read, sizes)) {
    const { start, end } = await run(window.ids, window.types);
    const found = bestSpan(window, start, end);
    if (found && (best === null || found.score > best.score)) best = found;
  }
  return best && { ...visible(context, best.start, best.end), score: best.score };
}
