"use strict";

// Reads the clips' files and paints their frames. A picture that is read from a file of its own could not be
// looked into by a page that was opened from a disk, so everything comes as text inside of scripts.
const shared = JSON.parse(document.getElementById("shared").textContent);
// As selrel/playback.py writes them.
const STEPS = 63;
const EDGE_STEPS = 15;
const EDGE_LIMIT = 6;
const PALE = 0.55;

const packed = new Map();
const waiting = new Map();
const opened = new Map();

function selrelClip(content) {
  packed.set(content.clip, content);
  waiting.get(content.clip)?.();
}

function loadClip(number) {
  if (!opened.has(number)) {
    const clip = fetchClip(number).then(unpackClip);
    // What failed may be tried again.
    clip.catch(() => opened.delete(number));
    opened.set(number, clip);
  }
  return opened.get(number);
}

function fetchClip(number) {
  if (packed.has(number)) return Promise.resolve(packed.get(number));
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    waiting.set(number, () => resolve(packed.get(number)));
    script.onerror = () => reject(new Error(`${shared.files[number]} is missing: keep the folder of this page together`));
    script.onload = () => packed.has(number) || reject(new Error(`${shared.files[number]} is damaged: copy the folder of this page again`));
    script.src = shared.files[number];
    document.head.append(script);
  });
}

async function unpackClip(content) {
  const [input, flow] = await Promise.all([readPicture(content.input), readPicture(content.flow)]);
  const layers = {};
  for (const [method, layer] of Object.entries(content.layers)) {
    const [relevance, levels, edges] = await Promise.all(
      [layer.relevance, layer.levels, layer.edges].map(inflate));
    layers[method] = {
      ...layer, relevance: new Int8Array(relevance), levels: new Uint8Array(levels), edges: new Int8Array(edges),
    };
  }
  return { ...content, input, flow, layers };
}

async function inflate(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

async function readPicture(address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  return context;
}

// A view is a function of a clip and what is chosen ({method, map, frame, palette, stretch}) to pixels.
const views = {
  input: (clip, chosen) => frameOf(clip, clip.input, chosen.frame),
  flow: (clip, chosen) => frameOf(clip, clip.flow, chosen.frame),
  baseline: (clip, chosen) => painted(clip, chosen, evidence(clip, chosen, 0), views.input(clip, chosen)),
  selective: (clip, chosen) => painted(clip, chosen, evidence(clip, chosen, chosen.map), views.input(clip, chosen)),
  // Without the frame below.
  sheer: (clip, chosen) => painted(clip, chosen, evidence(clip, chosen, chosen.map)),
  edges: (clip, chosen) => painted(clip, chosen, (at, layer) => layer.edges[at] / EDGE_STEPS),
  mask: (clip, chosen) => masked(clip, chosen),
};

function frameOf(clip, strip, frame) {
  return strip.getImageData(frame * clip.width, 0, clip.width, clip.height);
}

// A file holds steps of its own range; all clips of a method are painted on one scale, unless they are stretched.
function evidence(clip, chosen, map) {
  const { range, own } = clip.layers[chosen.method];
  const step = range / STEPS / (chosen.stretch ? own : shared.scales[chosen.method]);
  return (at, layer) => (layer.levels[at] >= map ? layer.relevance[at] * step : 0);
}

function painted(clip, chosen, value, below) {
  const layer = clip.layers[chosen.method];
  const [positive, negative] = shared.palettes[chosen.palette];
  const image = new ImageData(clip.width, clip.height);
  const start = chosen.frame * clip.width * clip.height;
  for (let pixel = 0, byte = 0; byte < image.data.length; pixel += 1, byte += 4) {
    const share = Math.max(-1, Math.min(1, value(start + pixel, layer)));
    const end = share > 0 ? positive : negative;
    const light = below ? paleGrey(below.data, byte) : 1;
    for (let channel = 0; channel < 3; channel += 1) {
      image.data[byte + channel] = light * (255 + Math.abs(share) * (end[channel] - 255));
    }
    image.data[byte + 3] = 255;
  }
  return image;
}

function paleGrey(data, byte) {
  const grey = 0.299 * data[byte] + 0.587 * data[byte + 1] + 0.114 * data[byte + 2];
  return 1 - PALE * (1 - grey / 255);
}

function masked(clip, chosen) {
  const layer = clip.layers[chosen.method];
  const image = new ImageData(clip.width, clip.height);
  const start = chosen.frame * clip.width * clip.height;
  for (let pixel = 0, byte = 0; byte < image.data.length; pixel += 1, byte += 4) {
    image.data.fill(layer.levels[start + pixel] >= chosen.map ? 0 : 255, byte, byte + 3);
    image.data[byte + 3] = 255;
  }
  return image;
}

function paintInto(canvas, view, clip, chosen) {
  if (canvas.width !== clip.width) canvas.width = clip.width;
  if (canvas.height !== clip.height) canvas.height = clip.height;
  canvas.getContext("2d").putImageData(views[view](clip, chosen), 0, 0);
}

// All frames staggered, the first at the back; where there is nothing, one sees through.
function paintTube(canvas, clip, chosen) {
  const right = Math.round(clip.width * 0.32), down = Math.round(clip.height * 0.07);
  canvas.width = clip.width + right * (clip.frames - 1) + 2;
  canvas.height = clip.height + down * (clip.frames - 1) + 2;
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  const sheet = document.createElement("canvas");
  for (let frame = 0; frame < clip.frames; frame += 1) {
    paintInto(sheet, frame === 0 ? "selective" : "sheer", clip, { ...chosen, frame });
    context.globalCompositeOperation = frame === 0 ? "source-over" : "multiply";
    context.drawImage(sheet, 1 + frame * right, 1 + frame * down);
    context.globalCompositeOperation = "source-over";
    context.strokeStyle = "#9a9a9a";
    context.strokeRect(1.5 + frame * right, 1.5 + frame * down, clip.width - 1, clip.height - 1);
  }
}
