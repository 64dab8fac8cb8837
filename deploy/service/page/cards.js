// A place of an answer as a card: picture, distance, the bits that differ, labels. Names are set as text, never as HTML.
import { picture } from "./api.js";
import { words } from "./words.js";

const SVG = "http://www.w3.org/2000/svg";
const COLUMNS = 32;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Positions of the bits in which two codes (hex digits) differ. */
export function differing(one, other, bits) {
  const found = [];
  for (let i = 0; i < one.length; i++) {
    const apart = parseInt(one[i], 16) ^ parseInt(other[i], 16);
    for (let b = 0; b < 4; b++) if (apart & (8 >> b) && 4 * i + b < bits) found.push(4 * i + b);
  }
  return found;
}

function strip(bits, differ) {
  const rows = Math.ceil(bits / COLUMNS), svg = document.createElementNS(SVG, "svg"), other = new Set(differ);
  svg.setAttribute("viewBox", `0 0 ${COLUMNS * 5 - 1} ${rows * 6 - 1}`);
  svg.setAttribute("class", "bits");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", words.differ(differ.length, bits, differ.join(", ")));
  for (let i = 0; i < bits; i++) {
    const cell = document.createElementNS(SVG, "rect");
    const place = { x: (i % COLUMNS) * 5, y: Math.floor(i / COLUMNS) * 6, width: 4, height: 5, rx: 1 };
    for (const [name, value] of Object.entries(place)) cell.setAttribute(name, value);
    cell.setAttribute("class", other.has(i) ? "other" : "same");
    svg.append(cell);
  }
  return svg;
}

/** One card; `code` is the query's, null where there is none. */
export function card(item, code, bits, onOpen) {
  const place = element("li"), button = element("button", "card"), frame = element("span", "frame");
  button.type = "button";
  button.title = `${item.id}\n${words.searchOn}`;
  if (item.thumbnail) {
    const image = element("img");
    image.alt = "";
    image.loading = "lazy";
    frame.append(element("span", "none", ""), image);
    picture(image, item.thumbnail);
  } else frame.append(element("span", "none", words.noPicture));
  if (item.count > 1) {
    const count = element("span", "count", `×${item.count}`);
    count.setAttribute("aria-label", words.together(item.count));
    frame.append(count);
  }
  const about = element("span", "about"), line = element("span", "line");
  if (code !== null) {
    const apart = element("span", "apart", item.distance ? `${item.distance} ` : words.same);
    if (item.distance) apart.append(element("small", "", words.apart(item.distance)));
    line.append(apart);
  }
  if (item.labels && item.labels.length) line.append(element("span", "labels", item.labels.join(", ")));
  about.append(line);
  if (code !== null) about.append(strip(bits, differing(code, item.code, bits)));
  const name = element("span", "name");
  name.append(element("bdi", "", item.id));
  about.append(name);
  button.append(frame, about);
  button.addEventListener("click", () => onOpen(item));
  place.append(button);
  return place;
}
