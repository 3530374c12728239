"use strict";
// The gallery of a scoring result. `data` is what gallery.py wrote; its texts are hostile and shown by textContent.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en");
const decimals = (score) => score.toFixed(3);
const plural = (count, one) => `${number(count)} ${one}${count === 1 ? "" : "s"}`;

function element(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

// Control, format and direction characters, and halves of surrogate pairs, are written out.
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
const visible = (key) =>
  key.replace(HIDDEN, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`) || "(an empty key)";

// State: the tab, the head whose scores are shown (WORST: of each image its highest), and the limit of each head.
const WORST = -1;
const heads = data.heads.map((head) => ({ ...head, limit: head.threshold ?? 0.5, moved: false }));
const tabs = makeTabs();
let tab = data.scored || !data.errors.length ? tabs[0] : tabs.at(-1);
let judged = 0;
let cards = [];
const headOf = (image) => (judged === WORST ? image.scores.indexOf(Math.max(...image.scores)) : judged);

function makeTabs() {
  const made = [];
  for (const section of data.sections) {
    if (section.tab !== null) {
      made.push({ head: null, judged: section.head ?? WORST, title: section.tab, count: section.count, sections: [section] });
      continue;
    }
    const same = section.head === null ? undefined : made.find((one) => one.head === section.head);
    if (same) same.sections.push(section);
    else made.push({ head: section.head, title: section.head === null ? section.title : heads[section.head].title, sections: [section] });
  }
  heads.forEach((head, place) => {
    if (!made.some((one) => one.head === place)) made.push({ head: place, title: head.title, sections: [] });
  });
  if (data.errors.length) made.push({ head: null, title: "Not scored", sections: [], errors: true });
  return made;
}

// Labels: a map from [key, head] as JSON to good or bad. Where a browser keeps nothing, they last as long as the page.
const STORE = `quality-model labels ${data.id}`;
const labels = new Map();
try {
  for (const [key, head, label] of JSON.parse(localStorage.getItem(STORE) ?? "[]")) labels.set(JSON.stringify([key, head]), label);
} catch { /* nothing is kept, or not by this page */ }
const placeOf = (image) => JSON.stringify([image.key, heads[headOf(image)].name]);
const labelOf = (image) => labels.get(placeOf(image));

function label(image, value) {
  const place = placeOf(image);
  if (labels.get(place) === value) labels.delete(place);
  else labels.set(place, value);
  try {
    localStorage.setItem(STORE, JSON.stringify([...labels].map(([at, kept]) => [...JSON.parse(at), kept])));
  } catch { /* private mode, or no room */ }
  showLabels();
  cards.filter((card) => card.image === image).forEach(markCard);
}

function showLabels() {
  const count = (value) => [...labels.values()].filter((one) => one === value).length;
  $("labelled").hidden = !labels.size;
  $("labelled").textContent = labels.size ? `${count("good")} good, ${count("bad")} bad` : "";
  $("download").disabled = !labels.size;
}

function download() {
  const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const lines = [...labels].map(([place, value]) => [...JSON.parse(place), value].map(cell).join(","));
  const file = new Blob([["key,head,label", ...lines, ""].join("\n")], { type: "text/csv" });
  const link = element("a", { href: URL.createObjectURL(file), download: "labels.csv" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// Limits: what a head's limit keeps, from the fine histogram; at the threshold itself, what the model flags.
function dropped(head) {
  if (head.limit === head.threshold) return head.flagged;
  const step = Math.round(head.limit * (head.histogram.length - 1));
  return head.histogram.slice(step + 1).reduce((sum, count) => sum + count, 0);
}
const limited = () => heads.filter((head, place) => head.moved || place === judged);
const isDropped = (image) => heads.some((head, place) => head.moved && image.scores[place] > head.limit);
const asNumber = (value) => String(value).replace(/^0\./, ".");

function showLimit() {
  if (judged === WORST) return;
  const head = heads[judged];
  const lost = dropped(head);
  const share = data.scored ? (100 * (data.scored - lost)) / data.scored : 0;
  $("limit").value = head.limit;
  $("limit-label").replaceChildren(`${head.title} at most `, element("b", { text: decimals(head.limit) }));
  $("effect").replaceChildren("Keeps ", element("b", { text: number(data.scored - lost) }),
    ` of ${plural(data.scored, "image")} (${share.toFixed(1)} %), drops `, element("b", { text: number(lost) }), ".");
  $("command").value = [data.command, ...limited().map((one) => `--max ${one.name}=${asNumber(one.limit)}`)].join(" ");
  $("reset").hidden = !head.moved;
  $("reset").textContent = head.threshold === null ? "Back" : "Back to the threshold";
  drawChart(head);
  cards.forEach(markCard);
}

function drawChart(head) {
  const [width, height, left, right, top, bottom] = [$("chart").clientWidth, $("chart").clientHeight, 44, 16, 18, 22];
  if (!width) return; // not shown
  const bars = Array.from({ length: 100 }, (_, bar) => {
    const first = bar === 0 ? 0 : bar * 10 + 1;
    return head.histogram.slice(first, bar * 10 + 11).reduce((sum, count) => sum + count, 0);
  });
  const most = Math.max(10, ...bars);
  const x = (score) => left + score * (width - left - right);
  const y = (count) => height - bottom - (Math.log10(1 + count) / Math.log10(1 + most)) * (height - top - bottom);
  const draw = (tag, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const parts = [];
  for (let count = 1; count <= most; count *= 10) {
    parts.push(draw("line", { class: "grid", x1: left, x2: width - right, y1: y(count), y2: y(count) }));
    parts.push(draw("text", { x: left - 6, y: y(count) + 4, "text-anchor": "end" }, number(count)));
  }
  bars.forEach((count, bar) => {
    const drops = bar / 100 >= head.limit - 1e-9 ? " drop" : "";
    const [from, to] = [x(bar / 100), x((bar + 1) / 100)];
    if (count) parts.push(draw("rect", { class: `bar${drops}`, x: from, width: Math.max(1, to - from - 1), y: y(count), height: height - bottom - y(count) }));
  });
  for (const score of [0, 0.25, 0.5, 0.75, 1]) parts.push(draw("text", { x: x(score), y: height - 6, "text-anchor": "middle" }, asNumber(score)));
  if (head.threshold !== null) {
    parts.push(draw("line", { class: "threshold", x1: x(head.threshold), x2: x(head.threshold), y1: top - 4, y2: height - bottom }));
    const anchor = head.threshold > 0.6 ? "end" : "start";
    parts.push(draw("text", { class: "threshold", x: x(head.threshold), y: 11, "text-anchor": anchor },
      `threshold ${decimals(head.threshold)}: ${number(head.flagged)} flagged`));
  }
  $("chart").setAttribute("viewBox", `0 0 ${width} ${height}`);
  $("chart").setAttribute("aria-label", `Histogram of ${plural(data.scored, "score")} of ${head.title.toLowerCase()}, counts on a logarithmic axis`);
  $("chart").replaceChildren(...parts);
}

// Images.
function picture(image) {
  if (image.jpeg === null) return element("span", { class: "picture", text: "no picture" });
  const frame = element("span", { class: "frame" }, element("img", { alt: "", src: `data:image/jpeg;base64,${image.jpeg}` }));
  const box = image.boxes && image.boxes[headOf(image)];
  if (box) {
    const drawn = element("span", { class: "box" });
    ["left", "top", "right", "bottom"].forEach((side, at) => { drawn.style[side] = `${100 * (at < 2 ? box[at] : 1 - box[at])}%`; });
    frame.append(drawn);
  }
  return element("span", { class: "picture" }, frame);
}

function makeCard(image) {
  const chips = element("span", { class: "first" });
  const scores = heads.map((head, place) =>
    element("span", { class: image.flags.includes(place) ? "over" : null, text: `${head.short} ${image.scores[place].toFixed(2)}` }));
  const button = element("button", { type: "button", class: "card", tabindex: -1, onclick: () => enlarge(image) }, picture(image),
    element("span", { class: "caption" }, chips, element("span", { class: "key", text: visible(image.key) }),
      image.note ? element("span", { class: "why", text: visible(image.note) }) : null,
      element("span", { class: "all" }, ...scores)));
  const card = { image, button, chips };
  button.addEventListener("focus", () => setCurrent(card));
  markCard(card);
  return card;
}

function markCard({ image, button, chips }) {
  const [drops, marked, head] = [isDropped(image), labelOf(image), headOf(image)];
  button.classList.toggle("dropped", drops);
  chips.replaceChildren(element("span", { class: "score", text: decimals(image.scores[head]) }),
    judged === WORST ? element("span", { class: "chip", text: heads[head].short }) : "",
    ...[drops ? ["drop", "dropped"] : image.flags.includes(head) && ["flag", "flagged"], marked && [marked, marked]]
      .filter(Boolean).map(([kind, text]) => element("span", { class: `chip ${kind}`, text })));
}

function setCurrent(card) {
  cards.forEach((one) => one.button.setAttribute("tabindex", one === card ? 0 : -1));
}
const currentCard = () => cards.find((card) => card.button === document.activeElement);

function ordered(images) {
  const score = (image) => image.scores[headOf(image)];
  const by = { high: (a, b) => score(b) - score(a), low: (a, b) => score(a) - score(b), key: (a, b) => (a.key < b.key ? -1 : 1) }[$("order").value];
  return by ? [...images].sort(by) : images;
}

function showImages() {
  const sought = $("search").value.toLowerCase();
  const matches = (image) => image.key.toLowerCase().includes(sought) || visible(image.key).toLowerCase().includes(sought);
  const groups = sought
    ? [{ title: "Found among all images of this page", note: "", images: data.images.filter(matches) }]
    : tab.sections.map((section) => ({ ...section, images: section.images.map((at) => data.images[at]) }));
  cards = [];
  $("images").replaceChildren(...groups.map((group) => {
    const made = ordered(group.images).map(makeCard);
    cards.push(...made);
    const count = group.of > made.length ? `${number(made.length)} of ${number(group.of)}` : plural(made.length, "image");
    const title = element("p", { class: "group" }, element("h2", { text: group.title }),
      element("span", { class: "muted", text: `  ${count}${group.note ? `, ${group.note}` : ""}` }));
    const body = made.length
      ? element("ul", { class: "images" }, ...made.map((card) => element("li", {}, card.button)))
      : element("p", { class: "empty", text: "No image." });
    return element("div", {}, title, body);
  }));
  if (cards.length) setCurrent(cards[0]);
}

function move(key) {
  const at = cards.indexOf(currentCard() ?? cards.find((card) => card.button.tabIndex === 0));
  if (at < 0) return;
  let next = currentCard() ? at + { ArrowRight: 1, ArrowLeft: -1, ArrowUp: 0, ArrowDown: 0 }[key] : at;
  if (currentCard() && (key === "ArrowUp" || key === "ArrowDown")) {
    const from = cards[at].button.getBoundingClientRect();
    const places = cards.map((card, place) => ({ place, box: card.button.getBoundingClientRect() }))
      .filter(({ box }) => (key === "ArrowDown" ? box.top > from.top + 1 : box.top < from.top - 1));
    const distance = ({ box }) => Math.abs(box.top - from.top) * 10000 + Math.abs(box.left - from.left);
    next = places.sort((a, b) => distance(a) - distance(b))[0]?.place ?? at;
  }
  (cards[next] ?? cards[at]).button.focus();
}

// The enlarged view of an image, in which arrows go on to its neighbours.
let enlarged = null;
function enlarge(image) {
  enlarged = image;
  const at = cards.findIndex((card) => card.image === image);
  const box = image.boxes && image.boxes[headOf(image)];
  const view = image.boxes ? `Decided by ${box ? "the view in the box" : "the whole view"}.` : "";
  const rows = heads.map((head, place) =>
    element("tr", { class: `${place === headOf(image) ? "current" : ""} ${image.flags.includes(place) ? "over" : ""}` },
      element("th", { scope: "row", text: head.title }),
      element("td", { text: decimals(image.scores[place]) }),
      element("td", { text: head.threshold === null ? "none" : decimals(head.threshold) }),
      element("td", { text: image.flags.includes(place) ? "flagged" : "" })));
  const titles = ["Head", "Score", "Threshold", "Flag"].map((text) => element("th", { scope: "col", text }));
  const mark = (value) => element("button", { type: "button", "aria-pressed": labelOf(image) === value, onclick: () => { label(image, value); enlarge(image); } },
    `${value === "good" ? "Good" : "Bad"} `, element("kbd", { text: value[0] }));
  const step = (by, text) => element("button", { type: "button", disabled: cards[at + by] ? null : "", onclick: () => enlarge(cards[at + by].image), text });
  const focus = document.activeElement?.closest("#enlarged") ? document.activeElement.textContent : null;
  $("enlarged").replaceChildren(
    element("h2", { id: "enlarged-key", class: "key", text: visible(image.key) }),
    element("div", { class: "layout" }, picture(image), element("div", { class: "side" },
      element("table", {}, element("thead", {}, element("tr", {}, ...titles)), element("tbody", {}, ...rows)),
      element("p", { class: "muted", text: `Overall ${decimals(image.overall)}. ${view}` }),
      image.note ? element("p", { class: "why", text: visible(image.note) }) : null,
      element("div", { class: "row" }, element("span", { text: `As for ${heads[headOf(image)].title.toLowerCase()}:` }), mark("good"), mark("bad")),
      element("div", { class: "row" }, step(-1, "Previous"), step(1, "Next"), element("button", { type: "button", onclick: () => $("enlarged").close(), text: "Close" })))));
  const shown = $("enlarged").querySelector("img");
  shown?.addEventListener("load", () => { shown.style.width = `${2.5 * shown.naturalWidth}px`; });
  if (!$("enlarged").open) $("enlarged").showModal();
  const buttons = [...$("enlarged").querySelectorAll("button:not([disabled])")];
  (buttons.find((button) => button.textContent === focus) ?? buttons.at(-1)).focus();
}

function openTab(next) {
  tab = next;
  judged = tab.head ?? tab.judged ?? judged;
  for (const [place, button] of [...$("tabs").children].entries()) {
    button.setAttribute("aria-current", tabs[place] === tab);
    if (tabs[place] === tab) $("tabs").scrollLeft = button.offsetLeft - 40;
  }
  $("search").value = "";
  $("limits").hidden = tab.head === null;
  $("errors").hidden = !tab.errors;
  $("tools").hidden = $("images").hidden = Boolean(tab.errors);
  $("judge-label").hidden = tab.head !== null;
  showHead();
}

function showHead() {
  const head = heads[judged] ?? heads[0];
  $("judge").value = judged;
  $("title").textContent = head.title;
  $("meaning").textContent = head.meaning;
  showImages();
  showLimit();
}

function say(text) {
  $("said").textContent = text;
  setTimeout(() => { $("said").textContent = ""; }, 2500);
}

async function copy() {
  try {
    await navigator.clipboard.writeText($("command").value);
  } catch {
    $("command").select();
    document.execCommand("copy");
  }
  say("Copied.");
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const { target, key } = event;
  const isText = target.matches("select, input[type=search], input[type=text]");
  if (isText) {
    if (key === "Escape") target.blur();
    return;
  }
  const arrow = key.startsWith("Arrow");
  const image = $("enlarged").open ? enlarged : currentCard()?.image;
  if (arrow && $("enlarged").open) {
    const at = cards.findIndex((card) => card.image === enlarged);
    const next = cards[at + (key === "ArrowRight" || key === "ArrowDown" ? 1 : -1)];
    if (next) enlarge(next.image);
  } else if (arrow && target.type !== "range") move(key);
  else if ((key === "g" || key === "b") && image) {
    label(image, key === "g" ? "good" : "bad");
    if ($("enlarged").open) enlarge(image);
  } else if (key === "v") {
    $("views").click();
  } else if (key === "/" && !$("enlarged").open && !tab.errors) $("search").focus();
  else if (key === "?" && !$("enlarged").open) $("help").showModal();
  else if (/^[1-9]$/.test(key) && tabs[key - 1] && !$("enlarged").open) openTab(tabs[key - 1]);
  else return;
  event.preventDefault();
}

function start() {
  $("name").textContent = visible(data.name);
  $("about").textContent = `${plural(data.scored, "image")} scored by ${visible(data.model)}` +
    (data.scored < data.inputs ? `, ${number(data.inputs - data.scored)} not scored` : "");
  $("tabs").replaceChildren(...tabs.map((one) => {
    const count = one.count !== undefined ? one.count : one.errors ? data.inputs - data.scored : one.head === null ? null : heads[one.head].threshold === null ? null : heads[one.head].flagged;
    return element("button", { type: "button", onclick: () => openTab(one) }, `${visible(one.title)} `,
      count === null ? null : element("small", { text: number(count) }));
  }));
  $("judge").replaceChildren(...heads.map((head, place) => element("option", { value: place, text: head.title })),
    element("option", { value: WORST, text: "Worst of the four" }));
  $("story").textContent = visible(data.about);
  $("story").hidden = !data.about;
  $("codes").replaceChildren(...data.errors.map(({ code, count, examples }) => element("div", {},
    element("h3", { text: code }), element("span", { class: "muted", text: `  ${plural(count, "input")}${count > examples.length ? `, of them ${examples.length}` : ""}` }),
    element("ul", {}, ...examples.map(([key, detail]) =>
      element("li", {}, element("span", { class: "key", text: visible(key) }), element("span", { class: "muted", text: `  ${visible(detail || "no detail")}` })))))));
  $("limit").addEventListener("input", () => {
    const head = heads[judged];
    [head.limit, head.moved] = [Number($("limit").value), true];
    showLimit();
  });
  $("reset").addEventListener("click", () => {
    Object.assign(heads[judged], { limit: heads[judged].threshold ?? 0.5, moved: false });
    showLimit();
    $("limit").focus();
  });
  $("judge").addEventListener("change", () => { judged = Number($("judge").value); showHead(); });
  $("order").addEventListener("change", showImages);
  $("search").addEventListener("input", showImages);
  $("views").addEventListener("change", () => document.body.classList.toggle("no-views", !$("views").checked));
  $("copy").addEventListener("click", copy);
  $("download").addEventListener("click", download);
  $("keys").addEventListener("click", () => $("help").showModal());
  $("enlarged").addEventListener("close", () => cards.find((card) => card.image === enlarged)?.button.focus());
  document.addEventListener("keydown", onKey);
  window.addEventListener("resize", showLimit);
  showLabels();
  openTab(tab);
}
start();
