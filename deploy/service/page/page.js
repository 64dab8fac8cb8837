// One screen: a query, its answer, and what goes wrong.
import { call, json, onToken, picture } from "./api.js";
import { card } from "./cards.js";
import { openAdd, prepareAdd } from "./add.js";
import { translate, words } from "./words.js";

const $ = (id) => document.getElementById(id);
const SLOW = 1500, RETRY = 2000, PAGE = 48;
let info = null, current = { kind: "all" }, running = null;

// what is wrong ------------------------------------------------------------------------------
function say(text) {
  $("alert").textContent = text || "";
  $("alert").hidden = !text;
}

function fault(error) {
  if (error.name === "AbortError") return;
  say(error.gone ? words.gone : error.message);
  if (error.gone) waitForService();
}

let waiting = false;
async function waitForService() {
  if (waiting) return;
  waiting = true;
  for (;;) {
    await new Promise((done) => setTimeout(done, RETRY));
    try { await call("ready"); break; } catch { /* not yet */ }
  }
  waiting = false;
  say("");
  $("summary").textContent = words.again;
  await start().catch(fault);
}

// the query ----------------------------------------------------------------------------------
function terms() {
  const limit = Math.min(3, Math.floor(info.bits / 8));
  return { k: $("k").value, label: $("label").value, rank: $("rank").value, collapse: $("collapse").checked ? limit : "" };
}

function request(query, signal) {
  const options = { method: "POST", query: terms(), signal };
  if (query.kind === "picture") return json("v1/search/picture", { ...options, body: query.file });
  if (query.kind === "text") return json("v1/search/text", { ...options, body: { text: query.text } });
  if (query.kind === "item") return json("v1/search/item", { ...options, body: { id: query.item.id } });
  return json("v1/items", { query: { count: PAGE, label: $("label").value, after: query.after }, signal });
}

function heading(query) {
  if (query.kind === "text") return words.nearWords(query.text);
  if (query.kind === "item") return words.nearPicture(query.item.id);
  return query.kind === "picture" ? words.nearPicture(query.file.name || words.pasted) : words.all;
}

function showQuery(query) {
  const shown = $("shown");
  const fresh = shown.cloneNode();
  fresh.classList.remove("there");
  fresh.removeAttribute("src");
  shown.replaceWith(fresh);
  fresh.hidden = true;
  if (query.kind === "picture") {
    fresh.src = URL.createObjectURL(query.file);
    fresh.addEventListener("load", () => { fresh.hidden = false; URL.revokeObjectURL(fresh.src); }, { once: true });
  } else if (query.kind === "item" && query.item.thumbnail) {
    picture(fresh, query.item.thumbnail);
    fresh.hidden = false;
  }
  $("words").value = query.kind === "text" ? query.text : "";
  $("results-title").textContent = heading(query);
  $("back").hidden = query.kind === "all";
}

/** Ask, and show the answer. The answer to an earlier question that is still on its way is not wanted any more. */
async function search(query, { keep = false } = {}) {
  if (!keep) history.pushState(null, "");
  if (!keep) trail.push(query);
  running?.abort();
  const mine = running = new AbortController();
  current = query;
  say("");
  showQuery(query);
  busy();
  const slow = setTimeout(() => { $("summary").textContent = words.slow; }, SLOW);
  try {
    const answer = await request(query, mine.signal);
    if (mine === running) show(query, answer);
  } catch (error) {
    if (mine === running) {
      $("grid").replaceChildren();
      $("summary").textContent = "";
      fault(error);
    }
  } finally {
    clearTimeout(slow);
    if (mine === running) $("results").setAttribute("aria-busy", "false");
  }
}

function busy() {
  $("results").setAttribute("aria-busy", "true");
  $("summary").textContent = words.searching;
  $("nothing").hidden = $("more").hidden = true;
  $("grid").replaceChildren(...Array.from({ length: 12 }, () => {
    const ghost = document.createElement("li");
    ghost.className = "ghost";
    ghost.setAttribute("aria-hidden", "true");
    return ghost;
  }));
}

function show(query, answer) {
  const all = query.kind === "all", rows = all ? answer.page : answer.matches;
  facts(answer.items);
  const cards = rows.map((row) => card(row, all ? null : answer.code, info.bits, (item) => search({ kind: "item", item })));
  if (query.after) $("grid").append(...cards); else $("grid").replaceChildren(...cards);
  $("nothing").hidden = $("grid").children.length > 0;
  $("nothing").textContent = answer.items ? words.nothing : words.empty;
  $("summary").textContent = all || !rows.length ? "" : words.found(rows.length, Math.min(...rows.map((row) => row.distance)));
  $("more").hidden = !(all && answer.after !== null);
  $("more").onclick = () => more(answer.after);
}

async function more(after) {
  $("more").hidden = true;
  const first = $("grid").children.length;
  try {
    const query = { kind: "all", after };
    show(query, await request(query));
    $("grid").children[first]?.querySelector("button").focus();
  } catch (error) { fault(error); }
}

// the way back -------------------------------------------------------------------------------
const trail = [];
window.addEventListener("popstate", () => {
  trail.pop();
  search(trail[trail.length - 1] || { kind: "all" }, { keep: true });
});

// pictures come in ---------------------------------------------------------------------------
function take(file) {
  if (!file) return;
  if (file.type && !file.type.startsWith("image/")) { say(words.badDrop); return; }
  if (info && file.size > info.upload_bytes) { say(words.tooLarge); return; }
  search({ kind: "picture", file });
}

function listen() {
  $("pick").onclick = () => $("file").click();
  $("file").onchange = () => { take($("file").files[0]); $("file").value = ""; };
  $("words-form").onsubmit = (event) => {
    event.preventDefault();
    const text = $("words").value.trim();
    if (text) search({ kind: "text", text });
  };
  for (const id of ["k", "label", "rank", "collapse"]) $(id).onchange = () => search(current, { keep: true });
  $("back").onclick = () => history.back();
  window.addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
  window.addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").classList.remove("over"); });
  window.addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
  window.addEventListener("paste", (event) => {
    const file = event.clipboardData.files[0];
    if (file) { event.preventDefault(); take(file); }
  });
  window.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.target.closest("input, select, dialog") && !$("words-form").hidden) {
      event.preventDefault();
      $("words").focus();
    }
  });
}

// the service --------------------------------------------------------------------------------
function facts(items) {
  const said = [words.items(items), words.bits(info.bits), info.method, words.engine(info.engine, info.exact)];
  $("facts").replaceChildren(...said.map((text) => Object.assign(document.createElement("span"), { textContent: text })));
}

function options(select, names) {
  for (const name of names) select.add(new Option(name, name));
}

async function start() {
  const first = info === null;
  if (first) busy();
  info = await json("v1/info");
  if (first) {
    facts(info.items);
    $("words-form").hidden = !info.words;
    $("label-field").hidden = !info.classes.length;
    options($("label"), info.classes);
    if (info.relaxed) $("rank").add(new Option(words.relaxed, "relaxed"));
    $("open-add").hidden = !(info.writable && info.pictures);
    prepareAdd(info, () => { if (current.kind === "all") search(current, { keep: true }); });
    $("open-add").onclick = openAdd;
  }
  await search(current, { keep: true });
}

onToken(() => new Promise((done) => {
  $("token").showModal();
  $("token").onclose = () => done($("token-value").value.trim());
}));
translate();
listen();
start().catch((error) => { $("grid").replaceChildren(); $("summary").textContent = ""; fault(error); });
