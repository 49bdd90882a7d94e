"use strict";
// Attention maps: a byte for each weight and the largest weight of each row; unpacked when they are first looked at.

const data = JSON.parse(document.getElementById("data").textContent);

function bytes(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

const unpacked = {};
function map(name) {
  const packed = data.maps[name];
  if (!packed) return null;
  if (!unpacked[name]) {
    const [L, H, T, S] = packed.shape;
    const steps = bytes(packed.steps), tops = new Float32Array(bytes(packed.tops).buffer);
    unpacked[name] = { L, H, T, S, layers: packed.layers, steps, tops };
  }
  return unpacked[name];
}

// One row: the weights of query t, in layer and head, where -1 stands for the average over all of them.
function row(m, layer, head, t) {
  const sum = new Float32Array(m.S);
  const [l0, l1] = layer < 0 ? [0, m.L] : [layer, layer + 1];
  const [h0, h1] = head < 0 || m.H === 1 ? [0, m.H] : [head, head + 1];
  const share = 1 / ((l1 - l0) * (h1 - h0) * 255);
  for (let l = l0; l < l1; l++)
    for (let h = h0; h < h1; h++) {
      const line = (l * m.H + h) * m.T + t, scale = m.tops[line] * share, start = line * m.S;
      for (let s = 0; s < m.S; s++) sum[s] += m.steps[start + s] * scale;
    }
  return sum;
}

// ---- the picture -------------------------------------------------------------------------------------------------
const [rows, columns] = data.grid, [high, wide] = data.pixels;
const image = new Image();
image.src = data.picture;

// Patches that were looked at keep their light, the others lie in the dark. weights[0] is the class token's.
function draw(canvas, weights, size, marked) {
  const width = size, height = Math.round(size * high / wide), pen = canvas.getContext("2d");
  canvas.width = width;
  canvas.height = height;
  pen.imageSmoothingEnabled = wide >= 128;
  pen.drawImage(image, 0, 0, width, height);
  const w = width * data.patch / wide, h = height * data.patch / high;  // a border that fills no patch stays as it is
  if (weights) {
    let top = 0;
    for (let n = 1; n < weights.length; n++) top = Math.max(top, weights[n]);
    for (let n = 1; n < weights.length; n++) {
      const dark = 0.82 * (1 - (top ? weights[n] / top : 0));
      const x = (n - 1) % columns, y = Math.floor((n - 1) / columns);
      const left = Math.round(x * w), up = Math.round(y * h);
      pen.fillStyle = `rgba(8, 10, 24, ${dark.toFixed(3)})`;
      pen.fillRect(left, up, Math.round((x + 1) * w) - left, Math.round((y + 1) * h) - up);
    }
  } else if (size > 200) {
    pen.strokeStyle = "rgba(70, 70, 90, .55)";
    pen.lineWidth = Math.max(1, size / 600);
    pen.beginPath();
    for (let x = 0; x <= columns; x++) { pen.moveTo(x * w, 0); pen.lineTo(x * w, rows * h); }
    for (let y = 0; y <= rows; y++) { pen.moveTo(0, y * h); pen.lineTo(columns * w, y * h); }
    pen.stroke();
  }
  if (marked > 0) {
    const x = (marked - 1) % columns, y = Math.floor((marked - 1) / columns);
    pen.lineWidth = Math.max(2, size / 160);
    pen.strokeStyle = "#fff";
    pen.strokeRect(x * w, y * h, w, h);
    pen.setLineDash([pen.lineWidth * 2, pen.lineWidth * 2]);
    pen.strokeStyle = "#b3470b";
    pen.strokeRect(x * w, y * h, w, h);
    pen.setLineDash([]);
  }
}

function percent(x) {
  return x >= 0.0995 ? `${Math.round(x * 100)} %` : x >= 0.00095 ? `${(x * 100).toFixed(1)} %` : x > 0 ? "< 0.1 %" : "0 %";
}

function patchName(n) {
  return n === 0 ? "the class token" : `row ${Math.floor((n - 1) / columns) + 1}, column ${(n - 1) % columns + 1}`;
}

// The three strongest patches, in words: what a screen reader hears of a picture.
function strongest(weights) {
  const order = [...weights.keys()].slice(1).sort((a, b) => weights[b] - weights[a]).slice(0, 3);
  const first = order.map((n) => `${patchName(n)} (${percent(weights[n])})`).join("; ");
  return `Strongest patches: ${first}. Class token: ${percent(weights[0])}.`;
}
