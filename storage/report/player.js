"use strict";

// What all players share; a change is told to the whole page.
const chosenByAll = { map: 0, palette: Object.keys(shared.palettes)[0], stretch: false };
const ALL_METHODS = "all methods";
const MILLISECONDS_A_FRAME = 160;
const MOST_OF_A_SHEET = 8;

const percent = (share) => (share === null || share === undefined ? "-" : `${(100 * share).toFixed(1)} %`);
const ratio = (value) => (value === null || value === undefined ? "-" : value.toFixed(2));
const clipsByNumber = new Map(shared.clips.map((clip) => [clip.clip, clip]));

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function thresholdWords(map) {
  const sigma = shared.sigmas[map];
  return sigma === 0 ? "none: everything" : `${sigma} sigma`;
}

class Player {
  constructor(place) {
    const numbers = place.dataset.clips.trim().split(/\s+/).map(Number);
    this.place = place;
    place.append(document.getElementById("player-template").content.cloneNode(true));
    this.frame = 0;
    this.method = shared.mainMethod;
    this.timer = null;
    this.find = (selector) => place.querySelector(selector);
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
      method.append(element("option", { value: name, textContent: name }));
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
    if (["INPUT", "SELECT"].includes(at)) return;
    if (event.key === " " && !["BUTTON", "SUMMARY"].includes(at)) this.toggle();
    else if (event.key === "ArrowLeft") this.step(-1);
    else if (event.key === "ArrowRight") this.step(1);
    else return;
    event.preventDefault();
  }

  async open(number) {
    this.pause();
    for (const button of this.place.querySelectorAll(".tabs button")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.clip) === number));
    }
    this.about = clipsByNumber.get(number);
    this.describe();
    try {
      this.clip = await loadClip(number);
    } catch (error) {
      this.find(".about").replaceChildren(element("span", { className: "failure", textContent: error.message }));
      return;
    }
    const slider = this.find(".frame");
    slider.max = this.clip.frames - 1;
    this.makeViews();
    await this.makeCurve();
    this.show(this.fullest());
    this.place.dataset.ready = number;
  }

  // The frame with the most evidence that changes tells the most at first sight.
  fullest() {
    const shares = this.clip.layers[this.methods()[0]].overTime[usualMap()];
    return shares.indexOf(Math.max(...shares));
  }

  describe() {
    const { video, class: name, predicted, start_frame: start } = this.about;
    const right = predicted === name ? "which is right" : "which is wrong";
    this.find(".about").replaceChildren(
      element("strong", { textContent: name }), `, ${video} from frame ${start + 1}. The model says `,
      element("strong", { textContent: predicted }), `, ${right}.`);
  }

  methods() {
    return this.method === ALL_METHODS ? shared.methods : [this.method];
  }

  makeViews() {
    const place = this.find(".views");
    place.replaceChildren();
    this.canvases = [this.makeView(place, "input", null, "input"), this.makeView(place, "flow", null, "optical flow")];
    for (const method of this.methods()) {
      this.canvases.push(this.makeView(place, "baseline", method, `${method}: all evidence`));
      this.canvases.push(this.makeView(place, "selective", method, `${method}: what changes`));
    }
  }

  makeView(place, view, method, words) {
    const canvas = element("canvas");
    canvas.setAttribute("role", "img");
    place.append(element("figure", { className: "view" }, canvas, element("figcaption", { textContent: words })));
    return { canvas, view, method, words };
  }

  chosen(method) {
    return { ...chosenByAll, frame: this.frame, method: method ?? this.methods()[0] };
  }

  paint() {
    if (!this.clip || !this.place.isConnected) return;
    for (const { canvas, view, method, words } of this.canvases) {
      paintInto(canvas, view, this.clip, this.chosen(method));
      canvas.setAttribute("aria-label", `${words}, ${this.about.class}, frame ${this.frame + 1}`);
    }
    this.find(".at").textContent = `${this.frame + 1} of ${this.clip.frames}`;
    this.find(".frame").value = this.frame;
    this.place.dataset.frame = this.frame;
    this.paintSteps();
    this.paintSheet();
    this.paintTube();
    this.tell();
    this.moveCurve();
  }

  // The figure of the method: relevance, its change, where that is large, what is left.
  paintSteps() {
    const part = this.find("details.steps");
    if (!part.open) return;
    const sigma = thresholdWords(chosenByAll.map);
    const steps = [["input", "1 input"], ["baseline", "2 evidence"], ["edges", "3 change over time"],
      ["mask", `4 black: change above ${sigma}`], ["selective", "5 evidence that changes"]];
    const place = part.querySelector(".views");
    place.replaceChildren();
    for (const [view, words] of steps) {
      const { canvas } = this.makeView(place, view, null, words);
      paintInto(canvas, view, this.clip, this.chosen());
      canvas.setAttribute("aria-label", `${words}, frame ${this.frame + 1}`);
    }
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
      rows.push(["baseline", `${method}, all`, method], ["selective", `${method}, what changes`, method]);
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
      const words = `${method}: the evidence that changes, from the first frame at the left to the last`;
      const { canvas } = this.makeView(place, "tube", method, words);
      paintTube(canvas, this.clip, this.chosen(method));
      canvas.setAttribute("aria-label", words);
    }
  }

  tell() {
    const figures = this.about.figures[this.methods()[0]];
    if (!figures) return;
    const [kept, voxels, precision, base, lift] = ["kept_relevance", "kept_voxels", "precision", "base_rate", "lift"]
      .map((name) => figures[name][chosenByAll.map]);
    const words = precision === null || precision === undefined ? "Nothing positive is left of it."
      : `Of what is left, ${percent(precision)} moves; by chance it would be ${percent(base)} (${ratio(lift)} times chance).`;
    const text = `In this clip, ${percent(kept)} of the evidence changes (${this.methods()[0]}, ${thresholdWords(chosenByAll.map)}), on ${percent(voxels)} of the marked points. ${words}`;
    const place = this.find(".reading");
    if (place.textContent !== text) place.textContent = text;
  }

  async makeCurve() {
    if (this.curve) return;
    // Vega can't place a chart of nothing, so it begins with the first rows.
    const specification = { ...shared.curve, datasets: { curve: this.overTime() } };
    this.curve = (await vegaEmbed(this.find(".curve"), specification, EMBEDDED)).view;
  }

  overTime() {
    const rows = [];
    for (const method of this.methods()) {
      const { overTime } = this.clip.layers[method];
      for (const [map, words] of [[0, "all evidence"], [chosenByAll.map, "what changes"]]) {
        overTime[map].forEach((share, frame) => rows.push({ method, map: words, frame: frame + 1, share }));
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
