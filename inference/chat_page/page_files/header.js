// The choice of models and of the mode.

import { byId, element } from "./dom.js";

export class Header {
  /** @param {Object} changed models(names), mode(name), settings(button) */
  constructor(changed) {
    this.choices = [byId("model-0"), byId("model-1")];
    for (const choice of this.choices) {
      choice.addEventListener("change", () => changed.models(this.chosen(this.isComparing)));
    }
    byId("compare").addEventListener("click", () => changed.models(this.chosen(!this.isComparing)));
    for (const mode of ["chat", "text"]) {
      byId(`mode-${mode}`).addEventListener("click", () => changed.mode(mode));
    }
    byId("open-settings").addEventListener("click", (event) => changed.settings(event.currentTarget));
  }

  chosen(isComparing) {
    return this.choices.slice(0, isComparing ? 2 : 1).map((choice) => choice.value);
  }

  show(conversation, facts) {
    const names = [...facts.keys()];
    const { models, mode } = conversation;
    this.isComparing = models.length > 1;
    // The second one is another model than the first where there are two.
    const second = models[1] ?? names.find((name) => name !== models[0]) ?? models[0];
    this.choices.forEach((choice, column) => {
      choice.replaceChildren(...names.map((name) => element("option", { value: name, text: name })));
      choice.value = column === 0 ? models[0] : second;
    });
    this.choices[1].hidden = byId("versus").hidden = !this.isComparing;
    byId("compare").setAttribute("aria-pressed", this.isComparing);
    for (const each of ["chat", "text"]) byId(`mode-${each}`).setAttribute("aria-pressed", each === mode);
    const lacking = models.filter((name) => !facts.get(name).can_chat);
    byId("mode-chat").disabled = lacking.length > 0;
    byId("mode-chat").title = lacking.length > 0 ? `${lacking[0]} has no format for a chat: it continues texts` : "";
    document.title = `${conversation.title} · ${models.join(" and ")}`;
  }
}
