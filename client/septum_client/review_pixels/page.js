"use strict";

// The secret path of this session; it is sent back in a header with every decision.
const session = location.pathname.split("/")[1];
const WORDS = { accept: "Accepted", blank: "Boxes blanked", reject: "Rejected" };
const LOOKS = ["", "strong", "inverted"];
const el = (id) => document.getElementById(id);

const state = { images: [], at: 0, history: [], view: null, look: 0, sending: false };

const here = () => state.images[state.at];
const waiting = () => state.images.filter((image) => !image.verdict).length;
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

async function post(what, body) {
  const answer = await fetch(what, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Septum-Token": session },
    body: JSON.stringify(body),
  });
  if (!answer.ok) throw new Error(String(answer.status));
}

async function start() {
  state.images = await (await fetch("images")).json();
  for (const image of state.images) image.marks = (image.verdict === "blank" ? image.blanked : image.boxes).slice();
  for (const _ of state.images) el("progress").append(document.createElement("i"));
  const first = state.images.findIndex((image) => !image.verdict);
  show(Math.max(first, 0));
}

// What is on the screen

function show(index) {
  state.at = clamp(index, 0, Math.max(state.images.length - 1, 0));
  const image = here();
  if (!image) return done();
  el("empty").hidden = true;
  const picture = el("picture");
  picture.src = `image/${image.name}.png`;
  picture.alt = `Image ${state.at + 1} of ${state.images.length}, ${image.columns} by ${image.rows} pixels`;
  el("sheet").style.width = `${image.columns}px`;
  el("sheet").style.height = `${image.rows}px`;
  el("marks").setAttribute("viewBox", `0 0 ${image.columns} ${image.rows}`);
  fit();
  draw();
}

function draw() {
  const image = here();
  if (!image) return;
  const total = state.images.length;
  el("position").textContent = `${state.at + 1} of ${total}`;
  el("why").textContent = `${image.why} · ${image.code}`;
  el("left").textContent = waiting() ? `${waiting()} to go` : "all decided";
  el("boxes").textContent = ["no box yet", "1 box"][image.marks.length] ?? `${image.marks.length} boxes`;
  el("blank").disabled = !image.marks.length;
  el("previous").disabled = state.at === 0;
  el("next").disabled = state.at === total - 1 && waiting() > 0;
  el("undo").disabled = !image.verdict && !state.history.length;
  for (const verdict of Object.keys(WORDS)) el(verdict).setAttribute("aria-pressed", image.verdict === verdict);
  el("stamp").hidden = !image.verdict;
  el("stamp").textContent = WORDS[image.verdict] ?? "";
  el("stamp").className = `stamp ${image.verdict ?? ""}`;
  el("marks").classList.toggle("blanked", image.verdict === "blank");
  el("marks").replaceChildren(...image.marks.map((box) => rectangle(box)));
  [...el("progress").children].forEach((tick, index) => {
    tick.className = `${state.images[index].verdict ?? ""} ${index === state.at ? "here" : ""}`;
  });
  el("progress").setAttribute("aria-label", `${total - waiting()} of ${total} decided`);
}

function done() {
  const total = state.images.length;
  el("empty").hidden = false;
  el("empty").textContent = total
    ? "Every image is decided.\nPress Enter to finish, or ← to look again."
    : "No image waits for review.";
  el("position").textContent = total ? `${total} of ${total}` : "0";
  el("why").textContent = "";
  el("next").disabled = true;
  say(el("empty").textContent);
}

const finished = () => !el("empty").hidden;

function rectangle([top, left, bottom, right], drawing = false) {
  const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  const sides = { x: left, y: top, width: right - left, height: bottom - top, rx: 0 };
  for (const [name, value] of Object.entries(sides)) rect.setAttribute(name, value);
  if (drawing) rect.setAttribute("class", "drawing");
  return rect;
}

function say(words) { el("said").textContent = words; }

// Decisions

async function decide(verdict) {
  const image = here();
  if (!image || finished() || state.sending || (verdict === "blank" && !image.marks.length)) return;
  const boxes = verdict === "blank" ? image.marks : [];
  if (!(await send({ name: image.name, verdict, boxes }))) return;
  image.verdict = verdict;
  state.history.push(state.at);
  say(`${WORDS[verdict]}. ${waiting()} to go.`);
  const after = state.images.findIndex((other, index) => index > state.at && !other.verdict);
  const next = after >= 0 ? after : state.images.findIndex((other) => !other.verdict);
  draw();
  if (next >= 0) show(next); else done();
}

async function undo() {
  if (state.sending) return;
  const index = !finished() && here()?.verdict ? state.at : state.history.pop();
  if (index === undefined) return;
  const image = state.images[index];
  if (!(await send({ name: image.name, verdict: "undo" }))) return;
  image.verdict = null;
  state.history = state.history.filter((other) => other !== index);
  show(index);
  say("Undone.");
}

async function send(body) {
  state.sending = true;
  try {
    await post("decide", body);
    return true;
  } catch {
    el("why").textContent = "Not saved: is the review still running in the terminal?";
    say(el("why").textContent);
    return false;
  } finally {
    state.sending = false;
  }
}

async function finish() {
  try { await post("finish", {}); } catch { /* it stopped before it could answer */ }
  el("empty").textContent = "Finished. You can close this page.";
  for (const button of document.querySelectorAll("button")) button.disabled = true;
}

function step(by) {
  if (finished()) { if (by < 0) show(state.images.length - 1); return; }
  if (state.at + by >= state.images.length && !waiting()) return done();
  show(state.at + by);
}

// The view: where the image's origin is on the stage, in CSS pixels, and its scale

function fit() {
  const image = here(), stage = el("stage");
  if (!image) return;
  const room = 24;
  const scale = Math.min((stage.clientWidth - room) / image.columns, (stage.clientHeight - room) / image.rows, 8);
  place({
    scale,
    x: (stage.clientWidth - image.columns * scale) / 2,
    y: (stage.clientHeight - image.rows * scale) / 2,
  });
}

function place(view) {
  state.view = view;
  const sheet = el("sheet");
  sheet.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
  sheet.style.setProperty("--scale", view.scale);
  sheet.classList.toggle("close", view.scale > 3);
}

function zoom(factor, x = el("stage").clientWidth / 2, y = el("stage").clientHeight / 2) {
  const { view } = state;
  if (!view) return;
  const scale = clamp(view.scale * factor, 0.05, 40), grown = scale / view.scale;
  place({ scale, x: x - (x - view.x) * grown, y: y - (y - view.y) * grown });
}

function contrast() {
  state.look = (state.look + 1) % LOOKS.length;
  el("sheet").classList.remove("strong", "inverted");
  if (LOOKS[state.look]) el("sheet").classList.add(LOOKS[state.look]);
  say(`Contrast: ${LOOKS[state.look] || "as it is"}.`);
}

// Boxes by hand

function point(event) {
  const image = here(), edge = el("stage").getBoundingClientRect(), { view } = state;
  return [
    clamp((event.clientY - edge.top - view.y) / view.scale, 0, image.rows),
    clamp((event.clientX - edge.left - view.x) / view.scale, 0, image.columns),
  ];
}

function box([y0, x0], [y1, x1]) {
  const image = here();
  const grown = [Math.floor(Math.min(y0, y1)), Math.floor(Math.min(x0, x1)), Math.ceil(Math.max(y0, y1)), Math.ceil(Math.max(x0, x1))];
  return [grown[0], grown[1], Math.min(grown[2], image.rows), Math.min(grown[3], image.columns)];
}

function press(event) {
  if (event.button > 1 || !here() || finished()) return;
  const stage = el("stage"), moving = event.shiftKey || event.button === 1;
  const from = point(event), began = { ...state.view }, drawing = rectangle([0, 0, 0, 0], true);
  stage.setPointerCapture(event.pointerId);
  stage.classList.toggle("moving", moving);
  if (!moving) el("marks").append(drawing);
  const drag = (next) => {
    if (moving) return place({ ...began, x: began.x + next.clientX - event.clientX, y: began.y + next.clientY - event.clientY });
    const [top, left, bottom, right] = box(from, point(next));
    const sides = { x: left, y: top, width: right - left, height: bottom - top };
    for (const [name, value] of Object.entries(sides)) drawing.setAttribute(name, value);
  };
  const release = (last) => {
    stage.removeEventListener("pointermove", drag);
    stage.classList.remove("moving");
    const drawn = box(from, point(last));
    // A click is no box.
    const large = Math.abs(last.clientX - event.clientX) > 4 && Math.abs(last.clientY - event.clientY) > 4;
    if (!moving && large && last.type === "pointerup" && !here().verdict) here().marks.push(drawn);
    draw();
  };
  stage.addEventListener("pointermove", drag);
  stage.addEventListener("pointerup", release, { once: true });
  stage.addEventListener("pointercancel", release, { once: true });
}

function unbox() {
  const image = here();
  if (!image || image.verdict || !image.marks.length) return;
  image.marks.pop();
  draw();
}

// Keys

const KEYS = {
  a: () => decide("accept"),
  b: () => decide("blank"),
  r: () => decide("reject"),
  u: undo,
  c: contrast,
  arrowleft: () => step(-1),
  arrowright: () => step(1),
  "+": () => zoom(1.25),
  "=": () => zoom(1.25),
  "-": () => zoom(0.8),
  "0": fit,
  backspace: unbox,
  "?": () => el("help").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || el("help").open) return;
  const key = event.key.toLowerCase();
  if (key === "enter" && finished() && state.images.length) return finish();
  const action = KEYS[key];
  if (!action || event.repeat && "abru".includes(key)) return;
  event.preventDefault();
  action();
});

el("accept").onclick = KEYS.a;
el("blank").onclick = KEYS.b;
el("reject").onclick = KEYS.r;
el("undo").onclick = KEYS.u;
el("previous").onclick = KEYS.arrowleft;
el("next").onclick = KEYS.arrowright;
el("zoom-in").onclick = KEYS["+"];
el("zoom-out").onclick = KEYS["-"];
el("fit").onclick = fit;
el("contrast").onclick = contrast;
el("help-open").onclick = KEYS["?"];
el("stage").addEventListener("pointerdown", press);
el("stage").addEventListener("wheel", (event) => {
  event.preventDefault();
  const edge = el("stage").getBoundingClientRect();
  zoom(Math.exp(-event.deltaY * 0.0015), event.clientX - edge.left, event.clientY - edge.top);
}, { passive: false });
window.addEventListener("resize", fit);
start().catch(() => { el("empty").hidden = false; el("empty").textContent = "The review is not running. Start it again in the terminal."; });
