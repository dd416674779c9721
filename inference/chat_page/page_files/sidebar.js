// The list of conversations: open, rename, delete, export.

import { button, byId, element } from "./dom.js";

/** Draw the list.
 * @param {Object} actions open(id), rename(id, title), remove(id), download(id)
 */
export function showConversations(conversations, openId, actions) {
  byId("conversation-list").replaceChildren(
    ...conversations.map((each) => row(each, each.id === openId, actions)),
  );
}

function row(conversation, isOpen, actions) {
  const { id, title } = conversation;
  const made = element("li", { class: isOpen ? "open" : "" });
  const name = button(title, () => actions.open(id), { class: "quiet name", title });
  if (isOpen) name.setAttribute("aria-current", "true");
  made.append(name);
  if (isOpen) {
    const acts = element("div", { class: "acts" });
    acts.append(
      button("Rename", () => rename(made, conversation, actions)),
      button("Export", () => actions.download(id)),
      button("Delete", () => sure(acts, () => actions.remove(id))),
    );
    made.append(acts);
  }
  return made;
}

function rename(place, conversation, actions) {
  const field = element("input", { value: conversation.title, maxLength: 100, "aria-label": "Title of the conversation" });
  let isOver = false;
  const end = (title) => {
    if (isOver) return;
    isOver = true;
    actions.rename(conversation.id, title.trim() || conversation.title);
  };
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter") end(field.value);
    if (event.key === "Escape") {
      event.stopPropagation();
      end(conversation.title);
    }
  });
  field.addEventListener("blur", () => end(field.value));
  place.replaceChildren(field);
  field.select();
}

function sure(place, act) {
  const before = [...place.childNodes];
  const yes = button("Delete for good", act, { class: "quiet danger" });
  place.replaceChildren(yes, button("Keep", () => place.replaceChildren(...before)));
  yes.focus();
}
