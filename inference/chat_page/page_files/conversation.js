// A conversation as data: settings, and turns with one answer for each model.
//
// {id, title, isNamed, created, mode: "chat" | "text", models: [name, ...], system, sampling,
//  turns: [{said, answers: [answer or null, ...]}]}
// answer: {model, system, text, tokens, reason, error, first, seconds, timed}: `tokens` are
// {bytes, logprob, best: [[bytes, logprob], ...]} with bytes as characters below 256; `first` and
// `seconds` are the times to the first token and from there to the last one, `timed` the number of
// tokens in the latter.

export const DEFAULT_SAMPLING = {
  temperature: 0.7,
  top_p: 0.95,
  top_k: 0,
  min_p: 0,
  max_tokens: 400,
  seed: null,
};
const LONGEST_TITLE = 48;

export function newConversation(models, mode) {
  return {
    id: crypto.getRandomValues(new Uint32Array(2)).join("-"),
    title: "New conversation",
    isNamed: false,
    created: Date.now(),
    mode,
    models,
    system: "",
    sampling: { ...DEFAULT_SAMPLING },
    turns: [],
  };
}

export function newAnswer(model, system) {
  return { model, system, text: "", tokens: [], reason: null, error: null, first: null, seconds: 0, timed: 0 };
}

/** Name a conversation after its first message, unless somebody has named it. */
export function nameByFirst(conversation) {
  if (conversation.isNamed || conversation.turns.length === 0) return;
  const words = conversation.turns[0].said.trim().replace(/\s+/g, " ");
  if (words === "") return;
  const letters = [...words];
  conversation.title = letters.length <= LONGEST_TITLE ? words : letters.slice(0, LONGEST_TITLE - 1).join("") + "…";
}

/** Return the messages that a column's model reads before it answers a turn. */
export function messagesBefore(conversation, number, column, system) {
  const messages = system.trim() === "" ? [] : [{ role: "system", content: system }];
  for (const turn of conversation.turns.slice(0, number)) {
    const answer = turn.answers[column];
    if (!answer || answer.text === "") continue; // without an answer, neither is part of the history
    messages.push({ role: "user", content: turn.said }, { role: "assistant", content: answer.text });
  }
  messages.push({ role: "user", content: conversation.turns[number].said });
  return messages;
}

/** Return a stored conversation with every field in order; null if it is none. */
export function checked(stored) {
  if (!isObject(stored) || typeof stored.id !== "string" || !Array.isArray(stored.turns)) return null;
  const fresh = newConversation(["", ""], "chat");
  for (const name of ["title", "system"]) if (typeof stored[name] !== "string") stored[name] = fresh[name];
  if (!Number.isFinite(stored.created)) stored.created = 0;
  if (stored.mode !== "text") stored.mode = "chat";
  stored.isNamed = stored.isNamed === true;
  const isList = Array.isArray(stored.models) && stored.models.every((name) => typeof name === "string");
  stored.models = isList && stored.models.length > 0 ? stored.models.slice(0, 2) : [""];
  const sampling = isObject(stored.sampling) ? stored.sampling : {};
  stored.sampling = { ...DEFAULT_SAMPLING };
  for (const name of Object.keys(DEFAULT_SAMPLING)) {
    if (sampling[name] === null || Number.isFinite(sampling[name])) stored.sampling[name] = sampling[name];
  }
  stored.turns = stored.turns.filter((turn) => isObject(turn) && typeof turn.said === "string");
  for (const turn of stored.turns) turn.answers = Array.isArray(turn.answers) ? turn.answers.map(checkedAnswer) : [];
  return stored;
}

function checkedAnswer(stored) {
  if (!isObject(stored) || typeof stored.text !== "string") return null;
  const answer = { ...newAnswer("", ""), ...stored };
  const isToken = (token) =>
    isObject(token) && typeof token.bytes === "string" && Number.isFinite(token.logprob) && Array.isArray(token.best);
  if (!Array.isArray(answer.tokens) || !answer.tokens.every(isToken)) answer.tokens = [];
  if (answer.reason === null) answer.reason = "stopped"; // the page was closed while it came
  return answer;
}

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
