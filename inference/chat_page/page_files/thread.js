// The turns of the open conversation on the screen; an answer that comes in is drawn once a frame.

import { isRunning } from "./answering.js";
import { button, byId, element } from "./dom.js";
import { markdown } from "./markdown.js";

const ENDS = { length: "ended at the limit of tokens", stopped: "stopped" };
const NEAR_THE_END = 80; // pixels

export class Thread {
  /** @param {Object} actions what the buttons do: regenerate, extend, edit, lookInside, ask. */
  constructor(actions) {
    this.actions = actions;
    this.place = byId("thread");
    this.views = new Map(); // answer -> function that draws it again
    this.waiting = new Set();
  }

  /** Draw a whole conversation. */
  show(conversation, facts) {
    this.views.clear();
    const turns = conversation.turns.map((_, number) => this.turn(conversation, number));
    this.place.replaceChildren(...(turns.length > 0 ? turns : [this.welcome(conversation, facts)]));
    this.place.scrollTop = this.place.scrollHeight;
  }

  /** Draw an answer again, soon. */
  changed(answer) {
    if (this.waiting.size === 0) requestAnimationFrame(() => this.drawWaiting());
    this.waiting.add(answer);
  }

  drawWaiting() {
    const { scrollTop, scrollHeight, clientHeight } = this.place;
    const isAtEnd = scrollHeight - scrollTop - clientHeight < NEAR_THE_END;
    for (const answer of this.waiting) this.views.get(answer)?.();
    this.waiting.clear();
    if (isAtEnd) this.place.scrollTop = this.place.scrollHeight;
  }

  welcome(conversation, facts) {
    const shown = conversation.models.map((name) => facts.get(name)).filter(Boolean);
    const isText = conversation.mode === "text";
    const title = isText ? "Begin a text, and let the model continue it" : "Ask the model something";
    const lines = [...new Set(shown)].map((model) => element("p", { class: "soft", text: described(model) }));
    return element("div", { class: "welcome" }, element("h1", { text: title }), ...lines);
  }

  turn(conversation, number) {
    const turn = conversation.turns[number];
    const isLast = number === conversation.turns.length - 1;
    const columns = conversation.models.map((_, column) => this.column(conversation, number, column));
    const answers = element("div", { class: columns.length > 1 ? "answers two" : "answers" }, ...columns);
    const made = element("article", { class: `turn ${conversation.mode}` });
    if (conversation.mode === "chat") {
      const said = element("div", { class: "said" }, element("h2", { class: "unseen", text: "You" }));
      said.append(element("p", { text: turn.said }));
      if (isLast) said.append(button("Edit", () => this.actions.edit(number), { "aria-label": "Edit your last message" }));
      made.append(said);
    }
    made.append(answers);
    return made;
  }

  column(conversation, number, column) {
    const turn = conversation.turns[number];
    const answer = turn.answers[column];
    const name = answer?.model ?? conversation.models[column];
    const made = element("section", { class: "answer", "aria-label": `Answer of ${name}` });
    const isNamed = conversation.models.length > 1 || (answer && answer.model !== conversation.models[column]);
    made.append(element("h2", { class: isNamed ? "model" : "unseen", text: name }));
    if (!answer) {
      const isLast = number === conversation.turns.length - 1;
      if (isLast) made.append(button("Ask this model too", () => this.actions.regenerate(number, column)));
      else made.append(element("p", { class: "soft", text: "Not asked." }));
      return made;
    }
    const text = element("div", { class: "text" });
    const problem = element("div", { class: "problem", role: "alert", hidden: true });
    const foot = element("footer");
    made.append(text, problem, foot);
    const draw = () => {
      this.drawText(text, conversation, turn, answer);
      problem.hidden = answer.error === null;
      if (answer.error !== null && problem.textContent !== answer.error) problem.textContent = answer.error;
      made.classList.toggle("running", isRunning(answer));
      made.setAttribute("aria-busy", isRunning(answer));
      this.drawFoot(foot, conversation, number, column);
    };
    this.views.set(answer, draw);
    draw();
    return made;
  }

  drawText(place, conversation, turn, answer) {
    if (conversation.mode === "text") {
      const given = element("span", { class: "given", text: turn.said });
      place.replaceChildren(given, element("span", { class: "continued", text: answer.text }));
    } else place.replaceChildren(...markdown(answer.text));
  }

  drawFoot(foot, conversation, number, column) {
    const answer = conversation.turns[number].answers[column];
    const facts = factsOf(answer);
    const line = foot.querySelector(".facts") ?? foot.appendChild(element("p", { class: "facts" }));
    line.textContent = facts;
    const state = isRunning(answer) ? "running" : String(answer.reason);
    if (foot.dataset.state === state) return; // the buttons keep their focus
    foot.dataset.state = state;
    foot.querySelector(".acts")?.remove();
    if (state === "running") return;
    const isLast = number === conversation.turns.length - 1;
    const acts = element("div", { class: "acts" });
    if (answer.tokens.length > 0) {
      acts.append(button("Look inside", (event) => this.actions.lookInside(number, column, event.currentTarget)));
    }
    if (answer.text !== "") acts.append(button("Copy", (event) => copy(answer.text, event.currentTarget)));
    if (isLast) {
      const again = answer.reason === "failed" ? "Try again" : "Regenerate";
      acts.append(button(again, () => this.actions.regenerate(number, column)));
      if (conversation.mode === "text") {
        if (answer.reason !== "failed") acts.append(button("Continue", () => this.actions.extend(number, column)));
        acts.append(button("Edit", () => this.actions.edit(number)));
      }
    }
    foot.append(acts);
  }
}

function factsOf(answer) {
  const facts = [];
  const count = answer.tokens.length;
  if (count > 0) facts.push(count === 1 ? "1 token" : `${count} tokens`);
  if (answer.timed > 0 && answer.seconds > 0) facts.push(`${rate(answer.timed / answer.seconds)} tokens/s`);
  if (answer.first !== null) facts.push(`first after ${answer.first.toFixed(2)} s`);
  if (ENDS[answer.reason]) facts.push(ENDS[answer.reason]);
  if (isRunning(answer) && count === 0) facts.push("reading …");
  return facts.join("  ·  ");
}

const rate = (number) => (number < 10 ? number.toFixed(1) : Math.round(number).toLocaleString("en"));

function described(model) {
  const size = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
  return (
    `${model.id}: ${size.format(model.num_parameters)} parameters, ${model.num_layers} layers with ` +
    `${model.num_heads} heads each, a context of ${model.context_length.toLocaleString("en")} tokens` +
    (model.can_chat ? "" : "; it continues texts and has no format for a chat")
  );
}

async function copy(text, pressed) {
  try {
    await navigator.clipboard.writeText(text);
    pressed.textContent = "Copied";
  } catch {
    pressed.textContent = "Cannot copy";
  }
  setTimeout(() => (pressed.textContent = "Copy"), 1500);
}
