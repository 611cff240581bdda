"use strict";

// What all players share; a change is told to the whole page.
const chosenByAll = { map: 0, palette: Object.keys(shared.palettes)[0], stretch: false };
const ALL_METHODS = "all methods";
const MILLISECONDS_A_FRAME = 160;
const MOST_OF_A_SHEET = 8;

const percent = (share) => (share === null || share === undefined ? "-" : `${(100 * share).toFixed(1)} %`);
const ratio = (value) => (value === null || value === undefined ? "-" : value.toFixed(2));
const timesChance = (lift, reason) => (typeof lift === "number" ? `${ratio(lift)} times chance` : `no lift: ${reason}`);
const clipsByNumber = new Map(shared.clips.map((clip) => [clip.clip, clip]));

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function thresholdWords() {
  const sigma = shared.sigmas[chosenByAll.map];
  return sigma === 0 ? "none: everything" : `${sigma} standard deviation${sigma === 1 ? "" : "s"}`;
}

const hasThreshold = () => shared.sigmas[chosenByAll.map] > 0;
const keptWords = () => (hasThreshold() ? "what changes" : "no threshold, all evidence");
// Of the clips that were looked at frame by frame.
const SPLIT_WORDS = { discriminative_spatial: "what still frames show", discriminative: "what change adds" };

function drawing(name, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

const nameOf = (method) => shared.methodNames[method];

// The figure of the method: its views, and what stands below them.
const METHOD_STEPS = {
  input: () => "1 input",
  baseline: () => "2 evidence",
  edges: () => {
    const [warm, cool] = chosenByAll.palette.split("-");
    return `3 change: ${warm} rises, ${cool} falls (full: ${EDGE_LIMIT} standard deviations)`;
  },
  mask: () => (hasThreshold() ? `4 black: change above ${thresholdWords()}` : "4 black: everything, there is no threshold"),
  selective: () => `5 ${hasThreshold() ? "evidence that changes" : keptWords()}`,
};

class Player {
  constructor(place) {
    const numbers = place.dataset.clips.trim().split(/\s+/).map(Number);
    this.place = place;
    place.append(document.getElementById("player-template").content.cloneNode(true));
    this.frame = 0;
    this.method = shared.mainMethod;
    this.timer = null;
    this.find = (selector) => place.querySelector(selector);
    this.steps = Object.entries(METHOD_STEPS)
      .map(([view, words]) => this.makeView(this.find(".steps .views"), view, null, words));
    this.makeTabs(numbers);
    this.makeControls();
    document.addEventListener("chosen", () => this.paint());
    this.open(numbers[0]);
  }

  makeTabs(numbers) {
    const names = this.place.dataset.places.trim().split(/\s+/);
    for (const [at, number] of numbers.entries()) {
      const { figures } = clipsByNumber.get(number);
      const share = figures[shared.mainMethod]?.kept_relevance[usualMap()];
      const button = element("button", { type: "button", textContent: `${names[at]}: ${percent(share)}` });
      button.dataset.clip = number;
      button.addEventListener("click", () => this.open(number));
      this.find(".tabs").append(button);
    }
  }

  makeControls() {
    const method = this.find(".method");
    for (const name of [...shared.methods, ...(shared.methods.length > 1 ? [ALL_METHODS] : [])]) {
      method.append(element("option", { value: name, textContent: nameOf(name) ?? name }));
    }
    method.value = this.method;
    method.addEventListener("change", () => { this.method = method.value; this.makeViews(); this.paint(); });
    this.find(".play").addEventListener("click", () => this.toggle());
    this.find(".previous").addEventListener("click", () => this.step(-1));
    this.find(".next").addEventListener("click", () => this.step(1));
    this.find(".frame").addEventListener("input", (event) => this.show(Number(event.target.value)));
    this.place.addEventListener("keydown", (event) => this.press(event));
    for (const part of ["steps", "sheet", "tube"]) {
      this.find(`details.${part}`).addEventListener("toggle", () => this.paint());
    }
  }

  press(event) {
    const at = event.target.tagName;
    const scroller = event.target.closest(".wide");
    // Arrows scroll what can be scrolled, and with other keys they are the browser's.
    const taken = event.altKey || event.ctrlKey || event.metaKey || this.place.contains(scroller);
    if (taken || ["INPUT", "SELECT"].includes(at)) return;
    if (event.key === " " && !["BUTTON", "SUMMARY"].includes(at)) this.toggle();
    else if (event.key === "ArrowLeft") this.step(-1);
    else if (event.key === "ArrowRight") this.step(1);
    else return;
    event.preventDefault();
  }

  async open(number) {
    this.pause();
    // Pictures of one clip never stand below the words of another.
    this.clip = null;
    delete this.place.dataset.ready;
    for (const button of this.place.querySelectorAll(".tabs button")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.clip) === number));
    }
    this.about = clipsByNumber.get(number);
    this.describe();
    const isWanted = () => this.about.clip === number;
    try {
      const clip = await loadClip(number);
      if (isWanted()) await this.begin(clip, isWanted);
    } catch (error) {
      if (isWanted()) this.find(".about").replaceChildren(element("span", { className: "failure", textContent: error.message }));
    }
  }

  async begin(clip, isWanted) {
    this.clip = clip;
    this.find(".frame").max = clip.frames - 1;
    this.makeViews();
    this.makeFrames();
    await this.makeCurve();
    if (!isWanted()) return;
    this.show(this.fullest());
    this.place.dataset.ready = clip.clip;
  }

  // The frame with the most evidence that changes tells the most at first sight.
  fullest() {
    const shares = this.clip.layers[this.methods()[0]].overTime[usualMap()];
    return shares.indexOf(Math.max(...shares));
  }

  describe() {
    const { clip, video, class: name, predicted, start_frame: start, flag } = this.about;
    const right = predicted === name ? "which is right" : "which is wrong";
    this.find(".about").replaceChildren(
      element("strong", { textContent: name }), `, clip ${clip}: ${video} from frame ${start + 1}. The model says `,
      element("strong", { textContent: predicted }), `, ${right}.${flag ? ` Flagged: ${flag}.` : ""}`);
  }

  methods() {
    return this.method === ALL_METHODS ? shared.methods : [this.method];
  }

  makeViews() {
    const place = this.find(".views");
    place.replaceChildren();
    this.canvases = [this.makeView(place, "input", null, () => "input"), this.makeView(place, "flow", null, () => "optical flow")];
    for (const method of this.methods()) {
      this.canvases.push(this.makeView(place, "baseline", method, () => `${nameOf(method)}: all evidence`));
      this.canvases.push(this.makeView(place, "selective", method, () => `${nameOf(method)}: ${keptWords()}`));
    }
    for (const [method, words] of Object.entries(SPLIT_WORDS)) {
      const isThere = this.clip.layers[method] && !this.methods().includes(method);
      if (isThere) this.canvases.push(this.makeView(place, "baseline", method, () => words));
    }
  }

  // How much of the clip's score each of its frames gives alone.
  makeFrames() {
    const figure = this.find("figure.frames"), svg = figure.querySelector("svg"), found = this.about.single_frames;
    figure.hidden = !found?.shares;
    if (figure.hidden) return;
    const { shares, same, best } = found;
    const low = Math.min(0, ...shares), high = Math.max(1, ...shares);
    const x = (frame) => 46 + (584 * (frame + 0.5)) / shares.length, y = (share) => 140 - (120 * (share - low)) / (high - low);
    svg.setAttribute("viewBox", "0 0 640 170");
    const parts = [];
    for (const [name, share, label] of [["zero", 0, "0 %"], ["whole", 1, "100 %"]]) {
      parts.push(drawing("line", { class: name, x1: 46, x2: 630, y1: y(share), y2: y(share) }));
      parts.push(drawing("text", { x: 40, y: y(share) + 4, "text-anchor": "end" }, label));
    }
    this.now = drawing("line", { class: "now", y1: 10, y2: 146 });
    parts.push(this.now, drawing("polyline", { class: "line", points: shares.map((share, at) => `${x(at)},${y(share)}`).join(" ") }));
    shares.forEach((share, at) => parts.push(drawing("circle", { class: same[at] ? "same" : "other", cx: x(at), cy: y(share), r: 4 })));
    for (const at of [0, shares.length - 1]) parts.push(drawing("text", { x: x(at), y: 162, "text-anchor": "middle" }, `frame ${at + 1}`));
    svg.replaceChildren(...parts);
    this.atFrame = x;
    const words = `Each frame alone, as a still clip: it gives this part of the score that the whole clip has. Full dots give the same answer. The best, frame ${best + 1}, gives ${percent(shares[best])}${same[best] ? " and the same answer" : ", but another answer"}; above 100 % a still picture speaks for the answer more than the clip does.`;
    figure.querySelector("figcaption").textContent = words;
    svg.setAttribute("aria-label", words);
  }

  makeView(place, view, method, words) {
    const canvas = element("canvas"), caption = element("figcaption");
    canvas.setAttribute("role", "img");
    place.append(element("figure", { className: "view" }, canvas, caption));
    return { canvas, caption, view, method, words };
  }

  paintView({ canvas, caption, view, method, words }) {
    paintInto(canvas, view, this.clip, this.chosen(method));
    caption.textContent = words();
    canvas.setAttribute("aria-label", `${words()}, ${this.about.class}, frame ${this.frame + 1}`);
  }

  chosen(method) {
    return { ...chosenByAll, frame: this.frame, method: method ?? this.methods()[0] };
  }

  paint() {
    if (!this.clip) return;
    // One that is closed stops; it is painted when it is opened again.
    if (this.place.offsetParent === null) {
      this.pause();
      return;
    }
    for (const view of this.canvases) this.paintView(view);
    if (this.find("details.steps").open) for (const view of this.steps) this.paintView(view);
    const at = `${this.frame + 1} of ${this.clip.frames}`;
    this.find(".at").textContent = at;
    this.find(".frame").value = this.frame;
    this.find(".frame").setAttribute("aria-valuetext", at);
    this.place.dataset.frame = this.frame;
    this.paintSheet();
    this.paintTube();
    this.tell();
    this.moveCurve();
  }

  paintSheet() {
    const part = this.find("details.sheet");
    if (!part.open) return;
    const key = JSON.stringify([this.about.clip, this.method, chosenByAll]);
    if (part.dataset.key === key) return;
    part.dataset.key = key;
    const n = Math.min(MOST_OF_A_SHEET, this.clip.frames);
    const frames = Array.from({ length: n }, (_, at) => Math.round((at * (this.clip.frames - 1)) / Math.max(1, n - 1)));
    const rows = [["input", "input", null], ["flow", "flow", null]];
    for (const method of this.methods()) {
      rows.push(["baseline", `${nameOf(method)}, all`, method], ["selective", `${nameOf(method)}, ${keptWords()}`, method]);
    }
    const head = element("tr", {}, element("td"), ...frames.map((frame) => element("th", { scope: "col", textContent: `frame ${frame + 1}` })));
    const body = rows.map(([view, words, method]) => element("tr", {}, element("th", { scope: "row", textContent: words }),
      ...frames.map((frame) => this.cell(view, method, frame, words))));
    part.querySelector(".wide").replaceChildren(element("table", {}, head, ...body));
  }

  cell(view, method, frame, words) {
    const canvas = element("canvas");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${words}, frame ${frame + 1}`);
    paintInto(canvas, view, this.clip, { ...this.chosen(method), frame });
    return element("td", {}, canvas);
  }

  paintTube() {
    const part = this.find("details.tube");
    if (!part.open) return;
    const key = JSON.stringify([this.about.clip, this.method, chosenByAll]);
    if (part.dataset.key === key) return;
    part.dataset.key = key;
    const place = part.querySelector(".wide");
    place.replaceChildren();
    for (const method of this.methods()) {
      const words = `${nameOf(method)}: ${keptWords()}, from the first frame at the left to the last`;
      const { canvas, caption } = this.makeView(place, "tube", method);
      paintTube(canvas, this.clip, this.chosen(method));
      caption.textContent = words;
      canvas.setAttribute("aria-label", words);
    }
  }

  tell() {
    const [method] = this.methods();
    const figures = this.about.figures[method];
    if (!figures) return;
    const [kept, voxels, precision, base, lift] = ["kept_relevance", "kept_voxels", "precision", "base_rate", "lift"]
      .map((name) => figures[name][chosenByAll.map]);
    const shown = hasThreshold()
      ? `In this clip, ${percent(kept)} of the evidence changes (${nameOf(method)}, ${thresholdWords()}), on ${percent(voxels)} of the marked points.`
      : `No threshold: all the evidence in this clip is shown (${nameOf(method)}).`;
    const words = precision === null || precision === undefined ? "Nothing in it speaks for the answer."
      : `Of the points left, ${percent(precision)} move; by chance it would be ${percent(base)} (${timesChance(lift, "too few points move")}).`;
    const text = `${shown} ${words}`;
    const place = this.find(".reading");
    if (place.textContent !== text) place.textContent = text;
  }

  async makeCurve() {
    // Vega can't place a chart of nothing, so it begins with the first rows.
    const datasets = { ...shared.curve.datasets, curve: this.overTime() };
    this.drawn ??= vegaEmbed(this.find(".curve"), { ...shared.curve, datasets }, EMBEDDED);
    this.curve = (await this.drawn).view;
  }

  overTime() {
    const rows = [];
    for (const method of this.methods()) {
      const { overTime } = this.clip.layers[method];
      for (const [map, words] of [[0, "all evidence"], [chosenByAll.map, "what changes"]]) {
        overTime[map].forEach((share, frame) => rows.push({ method: nameOf(method), map: words, frame: frame + 1, share }));
      }
    }
    return rows;
  }

  moveCurve() {
    if (!this.curve) return;
    const key = JSON.stringify([this.about.clip, this.method, chosenByAll.map]);
    if (this.curveKey !== key) {
      this.curveKey = key;
      this.curve.data("curve", this.overTime());
    }
    this.curve.signal("frame", this.frame + 1).runAsync();
    if (this.now && this.about.single_frames?.shares) {
      for (const end of ["x1", "x2"]) this.now.setAttribute(end, this.atFrame(this.frame));
    }
  }

  show(frame) {
    this.frame = frame;
    this.paint();
  }

  step(by) {
    this.pause();
    if (this.clip) this.show((this.frame + by + this.clip.frames) % this.clip.frames);
  }

  toggle() {
    if (this.timer) this.pause();
    else this.play();
  }

  play() {
    if (!this.clip) return;
    this.timer = setInterval(() => this.show((this.frame + 1) % this.clip.frames), MILLISECONDS_A_FRAME);
    this.tellState("Pause", "true");
  }

  pause() {
    clearInterval(this.timer);
    this.timer = null;
    this.tellState("Play", "false");
  }

  tellState(words, pressed) {
    const button = this.find(".play");
    button.textContent = words;
    button.setAttribute("aria-pressed", pressed);
  }
}
