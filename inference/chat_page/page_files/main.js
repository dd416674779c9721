// The page: it joins the parts, and knows which conversation is open.

import { isRunning, stop, stream } from "./answering.js";
import { json } from "./api.js";
import { messagesBefore, nameByFirst, newAnswer, newConversation } from "./conversation.js";
import { byId, element } from "./dom.js";
import { Header } from "./header.js";
import { InsidePanel } from "./inside.js";
import { showSettings } from "./settings.js";
import { showConversations } from "./sidebar.js";
import { loadAll, openId, remove, save, setOpenId } from "./store.js";
import { Thread } from "./thread.js";

const SAVE_EVERY = 1000; // milliseconds, while an answer comes
let facts = new Map(); // name of a model -> what the server says of it
let mostAttention = 0;
let conversations = [];
let open = null;
let isEditing = false;
let opener = null; // the button that opened a panel, which gets the focus back
let lastSave = 0;

const thread = new Thread({ regenerate, extend, edit, lookInside });
const inside = new InsidePanel();
const header = new Header({ models: changeModels, mode: changeMode, settings: toggleSettings });

const answersOf = (conversation) => conversation.turns.flatMap((turn) => turn.answers).filter(Boolean);
const isBusy = () => answersOf(open).some(isRunning);

function keep(conversation) {
  lastSave = Date.now();
  const isKept = save(conversation, conversations);
  if (!isKept) notify("This browser has no room left for conversations. Delete some to keep new ones.");
}

function notify(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = text === "";
}

function drawAll() {
  header.show(open, facts);
  thread.show(open, facts);
  drawList();
  drawComposer();
}

function drawList() {
  showConversations(conversations, open.id, { open: openConversation, rename, remove: removeOne, download });
}

function drawComposer() {
  const busy = isBusy();
  byId("send").hidden = busy;
  byId("stop").hidden = !busy;
  byId("editing").hidden = !isEditing;
  byId("message").placeholder = open.mode === "text" ? "Begin a text" : "Write a message";
  const field = byId("message");
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight, 240)}px`;
}

function openConversation(id) {
  closePanels();
  endEditing();
  open = conversations.find((each) => each.id === id);
  const first = facts.keys().next().value;
  open.models = open.models.map((name) => (facts.has(name) ? name : first));
  if (open.turns.length === 0 && !canChat(open)) open.mode = "text";
  setOpenId(id);
  showSide(false);
  drawAll();
}

const canChat = (conversation) => conversation.models.every((name) => facts.get(name)?.can_chat);

function startConversation() {
  const empty = conversations.find((each) => each.turns.length === 0);
  if (!empty) {
    const models = open ? [...open.models] : [facts.keys().next().value];
    const made = newConversation(models, "chat");
    if (open && open.mode === "text") made.mode = "text";
    conversations.unshift(made);
    keep(made);
  }
  openConversation((empty ?? conversations[0]).id);
  byId("message").focus();
}

function rename(id, title) {
  const renamed = conversations.find((each) => each.id === id);
  if (title !== renamed.title) Object.assign(renamed, { title, isNamed: true });
  keep(renamed);
  drawList();
}

function removeOne(id) {
  answersOf(conversations.find((each) => each.id === id)).forEach(stop);
  conversations = conversations.filter((each) => each.id !== id);
  remove(id);
  if (conversations.length === 0) startConversation();
  else openConversation(conversations[0].id);
}

function download(id) {
  const text = JSON.stringify(conversations.find((each) => each.id === id), null, 2);
  const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  element("a", { href: address, download: "conversation.json" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

function changeModels(models) {
  closePanels();
  open.models = models;
  if (!canChat(open) && open.turns.length === 0) open.mode = "text";
  keep(open);
  drawAll();
}

function changeMode(mode) {
  if (mode === open.mode) return;
  if (open.turns.length > 0) startConversation(); // a conversation has one mode
  open.mode = mode;
  keep(open);
  drawAll();
  if (!byId("settings").hidden) showSettings(open, () => keep(open), closePanels);
  byId("message").focus();
}

function send(event) {
  event.preventDefault();
  const field = byId("message");
  if (field.value.trim() === "" || isBusy()) return;
  if (isEditing) open.turns.pop();
  open.turns.push({ said: open.mode === "text" ? field.value : field.value.trim(), answers: [] });
  field.value = "";
  closeInside();
  endEditing();
  nameByFirst(open);
  drawList();
  const number = open.turns.length - 1;
  open.turns[number].answers = open.models.map((model) => newAnswer(model, open.system));
  for (const column of open.models.keys()) run(open, number, column);
  thread.show(open, facts);
  drawComposer();
}

async function run(conversation, number, column) {
  const answer = conversation.turns[number].answers[column];
  await stream(conversation, number, column, answer, () => {
    thread.changed(answer);
    if (Date.now() - lastSave > SAVE_EVERY) keep(conversation);
  });
  if (!conversations.includes(conversation)) return; // deleted meanwhile
  keep(conversation);
  drawComposer();
  byId("status").textContent = answer.error ?? `${answer.model} has answered with ${answer.tokens.length} tokens.`;
}

function regenerate(number, column) {
  closeInside();
  open.turns[number].answers[column] = newAnswer(open.models[column], open.system);
  run(open, number, column);
  thread.show(open, facts);
  drawComposer();
}

function extend(number, column) {
  closeInside();
  run(open, number, column);
  drawComposer();
}

function edit(number) {
  if (isBusy()) return;
  isEditing = true;
  byId("message").value = open.turns[number].said;
  drawComposer();
  byId("message").focus();
}

function endEditing() {
  if (isEditing) byId("message").value = "";
  isEditing = false;
  if (open) drawComposer();
}

function lookInside(number, column, pressed) {
  closePanels();
  opener = pressed;
  const turn = open.turns[number];
  const answer = turn.answers[column];
  const prompt =
    open.mode === "text" ? { prompt: turn.said } : { messages: messagesBefore(open, number, column, answer.system) };
  byId("inside").hidden = false;
  document.body.classList.add("has-panel");
  inside.show(answer, prompt, facts.get(answer.model), mostAttention, closePanels);
}

function toggleSettings(pressed) {
  if (!byId("settings").hidden) return closePanels();
  closePanels();
  opener = pressed;
  byId("settings").hidden = false;
  document.body.classList.add("has-panel");
  pressed.setAttribute("aria-expanded", "true");
  showSettings(open, () => keep(open), closePanels);
  byId("settings").querySelector("textarea, input").focus();
}

function closeInside() {
  if (!byId("inside").hidden) closePanels();
}

function closePanels() {
  for (const id of ["inside", "settings"]) byId(id).hidden = true;
  document.body.classList.remove("has-panel");
  byId("open-settings").setAttribute("aria-expanded", "false");
  opener?.focus();
  opener = null;
}

function showSide(isShown) {
  document.body.classList.toggle("has-side", isShown);
  byId("veil").hidden = !isShown;
  byId("open-conversations").setAttribute("aria-expanded", isShown);
}

function leave() {
  for (const each of conversations.filter((one) => answersOf(one).some(isRunning))) {
    answersOf(each).forEach(stop);
    keep(each);
  }
}

function listen() {
  byId("composer").addEventListener("submit", send);
  byId("stop").addEventListener("click", () => answersOf(open).forEach(stop));
  byId("end-editing").addEventListener("click", endEditing);
  byId("new-conversation").addEventListener("click", startConversation);
  byId("open-conversations").addEventListener("click", () => showSide(true));
  byId("veil").addEventListener("click", () => showSide(false));
  byId("message").addEventListener("input", drawComposer);
  byId("message").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || byId("key-dialog").open) return;
    if (document.body.classList.contains("has-side")) showSide(false);
    else if (document.body.classList.contains("has-panel")) closePanels();
    else if (isBusy()) answersOf(open).forEach(stop);
    else endEditing();
  });
  // Before the browser closes the connections, which would look like failures.
  for (const kind of ["beforeunload", "pagehide"]) window.addEventListener(kind, leave);
}

async function start() {
  try {
    const listed = await json("inside/models");
    facts = new Map(listed.data.map((model) => [model.id, model]));
    mostAttention = listed.most_attention_tokens;
  } catch (error) {
    notify(`${error.message} Reload this page to try again.`);
    return;
  }
  conversations = loadAll();
  listen();
  if (conversations.some((each) => each.id === openId())) openConversation(openId());
  else if (conversations.length > 0) openConversation(conversations[0].id);
  else startConversation();
  document.body.dataset.ready = "";
  byId("message").focus();
}

start();
