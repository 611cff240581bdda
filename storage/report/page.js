"use strict";

// The interpreter instead of compiled expressions: the page's content security policy forbids to make code.
const EMBEDDED = { ast: true, actions: false, defaultStyle: false, renderer: "svg", logLevel: 1 };
const USUAL_SIGMA = 2;
const charts = new Map();

function usualMap() {
  return Math.max(0, shared.sigmas.indexOf(USUAL_SIGMA));
}

function choose(change) {
  Object.assign(chosenByAll, change);
  for (const slider of document.querySelectorAll("input.sigma")) slider.value = chosenByAll.map;
  for (const words of document.querySelectorAll(".sigma-words")) words.textContent = thresholdWords();
  for (const slider of document.querySelectorAll("input.sigma")) slider.setAttribute("aria-valuetext", thresholdWords());
  for (const words of document.querySelectorAll("[data-threshold]")) words.hidden = (words.dataset.threshold === "some") !== hasThreshold();
  for (const words of document.querySelectorAll("[data-stretched]")) words.hidden = (words.dataset.stretched === "yes") !== chosenByAll.stretch;
  for (const place of document.querySelectorAll("[data-figure]")) {
    const { figure, method, kind } = place.dataset;
    const of = (name) => shared.swept[name]?.[method]?.[chosenByAll.map];
    const reason = figure === "lift" ? of("no_lift") : null;
    if (kind === "times") place.textContent = timesChance(of(figure), reason);
    else if (kind === "number") place.textContent = reason ? "none" : ratio(of(figure));
    else place.textContent = percent(of(figure));
  }
  for (const view of charts.values()) view.signal("sigma", shared.sigmas[chosenByAll.map]).runAsync();
  paintLegend();
  document.dispatchEvent(new Event("chosen"));
}

function paintLegend() {
  const ramp = document.querySelector(".ramp");
  if (!ramp) return;
  const [positive, negative] = shared.palettes[chosenByAll.palette].map((colour) => `rgb(${colour.join(" ")})`);
  ramp.style.background = `linear-gradient(to right, ${negative}, #fff, ${positive})`;
  const [warm, cool] = chosenByAll.palette.split("-");
  document.getElementById("ramp-words").textContent = `${cool}: against the answer; white, or the bare grey picture: nothing; ${warm}: for it`;
}

function makeChoices() {
  const palette = document.getElementById("palette");
  for (const name of Object.keys(shared.palettes)) {
    palette?.append(element("option", { value: name, textContent: name.replace("-", " and ") }));
  }
  palette?.addEventListener("change", () => choose({ palette: palette.value }));
  const stretch = document.getElementById("stretch");
  stretch?.addEventListener("change", () => choose({ stretch: stretch.checked }));
  document.addEventListener("input", (event) => {
    if (event.target.matches("input.sigma")) choose({ map: Number(event.target.value) });
  });
  for (const button of document.querySelectorAll(".switch button")) {
    button.addEventListener("click", () => read(button.dataset.level));
  }
}

function read(level) {
  document.body.dataset.level = level;
  for (const button of document.querySelectorAll(".switch button")) {
    button.setAttribute("aria-pressed", String(button.dataset.level === level));
  }
}

// Charts are drawn when they are first seen. Their places are as high as they are: nothing moves under a pointer.
const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    drawChart(target);
  }
}, { rootMargin: "300px" });

async function drawChart(place) {
  const { view } = await vegaEmbed(place, shared.charts[place.dataset.chart], EMBEDDED);
  charts.set(place.dataset.chart, view);
  view.signal("sigma", shared.sigmas[chosenByAll.map]).runAsync();
}

function makeOpener(button) {
  button.addEventListener("click", () => {
    const row = button.closest("tr");
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!open));
    if (row.nextElementSibling?.matches(".opened")) row.nextElementSibling.hidden = open;
    else openRow(button, row);
    // What is closed stops, what is opened again shows what is chosen now.
    choose({});
  });
}

function openRow(button, row) {
  const place = element("div", { className: "player", tabIndex: 0 });
  place.setAttribute("role", "region");
  place.setAttribute("aria-label", `Player, ${button.textContent}`);
  Object.assign(place.dataset, { clips: button.dataset.clips, places: button.dataset.places });
  row.after(element("tr", { className: "opened" }, element("td", { colSpan: row.cells.length }, place)));
  new Player(place);
}

function makeTips() {
  const tip = document.getElementById("tip");
  let word = null;
  const hide = () => {
    tip.hidden = true;
    word?.removeAttribute("aria-describedby");
    word = null;
  };
  // A tip stays while the pointer is on it.
  const leave = (event) => { if (![tip, word].includes(event.relatedTarget)) hide(); };
  const show = (event) => {
    const found = event.target.closest?.(".term");
    if (!found) return;
    hide();
    word = found;
    tip.textContent = word.dataset.word;
    tip.hidden = false;
    word.setAttribute("aria-describedby", "tip");
    const box = word.getBoundingClientRect();
    const left = Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 12);
    const above = box.bottom + tip.offsetHeight > innerHeight;
    tip.style.left = `${Math.max(12, left) + scrollX}px`;
    tip.style.top = `${(above ? box.top - tip.offsetHeight + 1 : box.bottom - 1) + scrollY}px`;
  };
  for (const kind of ["mouseover", "focusin"]) document.addEventListener(kind, show);
  for (const kind of ["mouseout", "focusout"]) document.addEventListener(kind, leave);
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
}

async function copyCommand() {
  const command = document.getElementById("command");
  try {
    await navigator.clipboard.writeText(command.textContent);
    document.getElementById("copied").textContent = "Copied.";
  } catch {
    getSelection().selectAllChildren(command);
    document.getElementById("copied").textContent = "Selected: copy it with your keyboard.";
  }
}

makeChoices();
makeTips();
document.getElementById("copy").addEventListener("click", copyCommand);
for (const button of document.querySelectorAll(".opener")) makeOpener(button);
for (const place of document.querySelectorAll(".player[data-clips]")) new Player(place);
for (const place of document.querySelectorAll(".chart")) seen.observe(place);
if (shared.sigmas.length) choose({ map: usualMap() });
