// One answer from its request to its last token, with its times.

import { events } from "./api.js";
import { messagesBefore } from "./conversation.js";
import { bytesOfText } from "./token_text.js";

const NUM_ALTERNATIVES = 5;
const running = new Map(); // answer -> AbortController

export const isRunning = (answer) => running.has(answer);

/** End an answer early; its connection closes, and the server frees its memory. */
export function stop(answer) {
  running.get(answer)?.abort();
}

/** Stream an answer into `answer`, and call `changed(answer)` at each of its changes. */
export async function stream(conversation, number, column, answer, changed) {
  const controller = new AbortController();
  running.set(answer, controller);
  answer.reason = answer.error = null;
  changed(answer);
  const { path, body, tokensOf, textOf } = requestOf(conversation, number, column, answer);
  const asked = performance.now();
  let before = null;
  try {
    for await (const event of events(path, body, controller.signal)) {
      for (const choice of event.choices) {
        const tokens = tokensOf(choice);
        const now = performance.now();
        if (tokens.length > 0) {
          if (before === null) answer.first ??= (now - asked) / 1000;
          else {
            answer.seconds += (now - before) / 1000;
            answer.timed += tokens.length;
          }
          before = now;
        }
        answer.tokens.push(...tokens);
        answer.text += textOf(choice);
        answer.reason = choice.finish_reason ?? answer.reason;
      }
      changed(answer);
    }
    answer.reason ??= "stop";
  } catch (error) {
    answer.reason = error.name === "AbortError" ? "stopped" : "failed";
    if (answer.reason === "failed") answer.error = error.message;
  } finally {
    running.delete(answer);
    changed(answer);
  }
}

function requestOf(conversation, number, column, answer) {
  const { seed, max_tokens, ...sampling } = conversation.sampling;
  const shared = { model: answer.model, stream: true, ...sampling };
  if (seed !== null) shared.seed = seed;
  if (max_tokens !== null) shared.max_tokens = max_tokens;
  if (conversation.mode === "text") {
    const prompt = conversation.turns[number].said + answer.text;
    if (max_tokens === null) shared.max_tokens = 1_000_000; // the server stops at its context
    return {
      path: "v1/completions",
      body: { ...shared, prompt, logprobs: NUM_ALTERNATIVES },
      tokensOf: textTokens,
      textOf: (choice) => choice.text,
    };
  }
  const messages = messagesBefore(conversation, number, column, answer.system);
  return {
    path: "v1/chat/completions",
    body: { ...shared, messages, logprobs: true, top_logprobs: NUM_ALTERNATIVES },
    tokensOf: chatTokens,
    textOf: (choice) => choice.delta.content ?? "",
  };
}

function chatTokens(choice) {
  return (choice.logprobs?.content ?? []).map((token) => ({
    bytes: String.fromCharCode(...token.bytes),
    logprob: token.logprob,
    best: token.top_logprobs.map((each) => [String.fromCharCode(...each.bytes), each.logprob]),
  }));
}

function textTokens(choice) {
  const found = choice.logprobs;
  if (!found) return [];
  return found.tokens.map((name, place) => {
    const best = Object.entries(found.top_logprobs[place]).sort((one, other) => other[1] - one[1]);
    return {
      bytes: bytesOfText(name),
      logprob: found.token_logprobs[place],
      best: best.slice(0, NUM_ALTERNATIVES).map(([text, logprob]) => [bytesOfText(text), logprob]),
    };
  });
}
