// The dialog that adds pictures, one after the other, each with what became of it.
import { json } from "./api.js";
import { words } from "./words.js";

const $ = (id) => document.getElementById(id);
let changed = () => {};

export function prepareAdd(info, onChange) {
  changed = onChange;
  $("add-label-field").hidden = !info.classes.length;
  for (const name of info.classes) $("add-label").add(new Option(name, name));
  $("add-form").onsubmit = (event) => { event.preventDefault(); addAll(); };
  $("add-close").onclick = () => $("add").close();
}

export function openAdd() {
  $("add-list").replaceChildren();
  $("add").showModal();
}

async function addAll() {
  const files = [...$("add-files").files], folder = $("add-folder").value.trim().replace(/^\/+|\/+$/g, "");
  $("add-start").disabled = true;
  $("add-list").replaceChildren();
  let done = 0;
  for (const file of files) {
    const row = document.createElement("li"), name = document.createElement("span"), state = document.createElement("span");
    name.textContent = file.name;
    state.textContent = words.adding;
    row.append(name, state);
    $("add-list").append(row);
    row.scrollIntoView({ block: "nearest" });
    try {
      const id = folder ? `${folder}/${file.name}` : file.name;
      await json("v1/items", { method: "POST", body: file, query: { id, label: $("add-label").value } });
      state.textContent = words.added;
      done += 1;
    } catch (error) {
      state.textContent = error.gone ? words.gone : error.message;
      state.className = "bad";
    }
  }
  $("add-start").disabled = false;
  $("add-files").value = "";
  if (done) changed();
}
