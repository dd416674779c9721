// Requests to the server that this page came from: the key, errors in words, streams of events.

import { askForKey, keyHeader } from "./key_dialog.js";

/** An answer of the server that is an error, or no answer; the message is for people. */
export class ApiFailure extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** Return a response that is not an error. With a body, it is a POST request of JSON. */
export async function request(path, body, signal) {
  for (;;) {
    const key = keyHeader();
    const headers = key ? { Authorization: key } : {};
    const sent = { headers, signal, cache: "no-store" };
    if (body !== undefined) {
      sent.method = "POST";
      sent.body = JSON.stringify(body);
      headers["Content-Type"] = "application/json";
    }
    let response;
    try {
      response = await fetch(path, sent);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiFailure("The server does not answer. Is lm serve still running?");
    }
    if (response.ok) return response;
    const message = await messageOf(response);
    if (response.status !== 401) throw new ApiFailure(message, response.status);
    if (!(await askForKey(key))) throw new ApiFailure("The server needs a key.", 401);
  }
}

async function messageOf(response) {
  try {
    const { error } = await response.json();
    if (typeof error.message === "string") return sentence(error.message);
  } catch {
    // not JSON: the status is all there is to say
  }
  return `The server answered with status ${response.status}.`;
}

const sentence = (text) => text[0].toUpperCase() + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".");

/** Return the JSON of a response. */
export async function json(path, body, signal) {
  return (await request(path, body, signal)).json();
}

/** Yield the objects of a stream of server-sent events. */
export async function* events(path, body, signal) {
  const response = await request(path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new ApiFailure("The connection ended before the answer did.");
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const data = part.replace(/^data: /, "");
        if (data === "[DONE]") return;
        const event = JSON.parse(data);
        if (event.error) throw new ApiFailure(sentence(event.error.message));
        yield event;
      }
    }
  } catch (error) {
    if (error instanceof TypeError) throw new ApiFailure("The connection to the server was lost.");
    throw error;
  } finally {
    reader.cancel().catch(() => {});
  }
}
