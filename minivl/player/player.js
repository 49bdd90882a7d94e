// ---- what can be stepped through -----------------------------------------------------------------------------------
const $ = (id) => document.getElementById(id);
const AVERAGE = -1, ROLLOUT = -2;

function el(tag, properties = {}, ...inside) {
  const one = Object.assign(document.createElement(tag), properties);
  one.append(...inside);
  return one;
}

// A part is a set of maps with the layer, the head and the token that were chosen in it.
function part(maps, rollout, chosen, layerNames) {
  const m = map(maps);
  return m && { maps, rollout, chosen, layer: AVERAGE, head: AVERAGE, layerNames: layerNames || m.layers };
}

const parts = {
  vision: part("vision", "visionRollout", 0),
  queries: part("queries", "queriesRollout", 0, data.looks),
  words: part("words", "wordsRollout", -1),
  pair: part("wordsOverPatches", "wordsOverPatchesRollout", Math.min(1, data.places.length - 1)),
};

function weights(p, t, maps = p.maps, rollout = p.rollout) {
  if (p.layer === ROLLOUT && map(rollout)) return row(map(rollout), 0, 0, t);
  return map(maps) && row(map(maps), p.layer === ROLLOUT ? AVERAGE : p.layer, p.head, t);
}

function listed() {
  const steps = [{ kind: "patches", title: "The picture becomes patches", part: null, stages: ["clip_vit", "roberta"] }];
  if (data.kind === "bridgetower") {
    const m = map("wordsOverPatches");
    for (let l = 0; m && l < m.L; l++) {
      const title = `Cross-modal layer ${m.layers[l]}: text and picture look at each other`;
      steps.push({ kind: "pair", title, part: "pair", layer: l, stages: ["bridge", "bridgetower"] });
    }
    if (m) steps.push({ kind: "pair", title: "All cross-modal layers", part: "pair", layer: ROLLOUT, stages: ["bridge", "bridgetower"] });
    if (data.answers.length || data.words.some((word) => word.likely.length))
      steps.push({ kind: "answer", title: "What the head says", part: null, stages: ["bridgetower"] });
    return steps;
  }
  if (parts.vision) steps.push({ kind: "vision", title: "The patches look at each other", part: "vision", stages: ["vit"] });
  if (parts.queries) steps.push({ kind: "queries", title: "The queries look at the picture", part: "queries", stages: ["qformer"] });
  data.words.forEach((word, i) => steps.push({
    kind: "word", title: `Word ${i + 1} of ${data.words.length}: “${word.text}”`, part: parts.words && "words", word: i, stages: ["blip2", "opt", "t5"],
  }));
  return steps;
}

const steps = listed();
const towers = data.kind === "bridgetower" ? " Then two towers read picture and text apart, layer by layer." : "";
let now = 0, timer = 0;

// ---- what each step shows ------------------------------------------------------------------------------------------
function thumb(label, w, pressed, choose) {
  const canvas = el("canvas");
  const button = el("button", { className: "thumb", onclick: choose }, canvas, el("span", { textContent: label }));
  button.style.setProperty("--ratio", wide / high);
  button.setAttribute("aria-pressed", pressed);
  button.setAttribute("aria-label", `${label}. ${strongest(w)}`);
  draw(canvas, w, 96, 0);
  return button;
}

function chip(text, w, top, pressed, choose, kind = "") {
  const button = el("button", { className: `chip ${kind}`, onclick: choose, textContent: text });
  if (w !== null) button.append(el("small", { textContent: percent(w) }));
  button.style.setProperty("--w", w === null || !top ? 0 : w / top);
  button.setAttribute("aria-pressed", pressed);
  return button;
}

function likely(words, chosen) {
  const body = el("tbody"), rest = 1 - words.reduce((sum, [, p]) => sum + p, 0);
  for (const [text, p] of [...words, ...(rest > 0.0005 ? [["all others", rest]] : [])]) {
    const track = el("span", { className: "track" });
    track.style.width = `${100 * p}%`;
    const picked = text === chosen;
    const mark = el("td", { textContent: picked ? `${text} ✓` : text, title: picked ? "chosen" : "" });
    body.append(el("tr", { className: picked ? "chosen" : "" }, mark, el("td", {}, track), el("td", { textContent: percent(p) })));
  }
  return el("table", { className: "likely" }, body);
}

function heading(text, about) {
  return [el("h3", { textContent: text }), ...(about ? [el("p", { className: "legend", textContent: about })] : [])];
}

const choose = (p, t) => () => { p.chosen = p.chosen === t && p === parts.words ? -1 : t; show(); };

const shows = {
  patches() {
    const n = rows * columns, P = data.patch;
    picture(null, 0, `${wide} x ${high} pixels, as the model gets them: ${rows} x ${columns} patches of ${P} x ${P}.`);
    $("says").textContent = `Each of the ${n} patches becomes one token, a row of numbers; a class token is put in front of them, and each is told its place.${towers}`;
    return [];
  },

  vision() {
    const p = parts.vision, m = map("vision"), w = weights(p, p.chosen);
    $("says").textContent = "Every patch gathers from all the others, in every layer. Choose a patch in the picture, or the class token, to see where it looks.";
    picture(w, p.chosen, `${sentence(patchName(p.chosen))} is looking. ${strongest(w)}`);
    const classToken = chip("class token", null, 0, p.chosen === 0, choose(p, 0));
    const layers = m.layers.map((name, l) =>
      thumb(`layer ${name}`, row(m, l, p.head, p.chosen), p.layer === l, () => { p.layer = l; show(); }));
    return [...heading("Who looks"), el("div", { className: "chips" }, classToken),
      ...heading("Layer by layer", "where the chosen token looks in each layer"), el("div", { className: "thumbs" }, ...layers)];
  },

  queries() {
    const p = parts.queries, m = map("queries"), w = weights(p, p.chosen);
    $("says").textContent = `${m.T} learned queries read the picture; only what they bring back reaches the language model. Choose one.`;
    picture(w, 0, `Query ${p.chosen + 1}. ${strongest(w)}`);
    const queries = Array.from({ length: m.T }, (_, q) => thumb(`query ${q + 1}`, weights(p, q), p.chosen === q, choose(p, q)));
    const inside = [...heading("What each query looks at"), el("div", { className: "thumbs" }, ...queries)];
    const among = map("amongQueries");
    if (among) {
      const l = p.layer >= 0 ? data.looks[p.layer] - 1 : AVERAGE;
      const others = row(among, Math.min(l, among.L - 1), p.head, p.chosen), top = Math.max(...others);
      const chips = Array.from(others, (v, q) => chip(`q${q + 1}`, v, top, false, choose(p, q), "query"));
      inside.push(...heading(`Query ${p.chosen + 1} over the other queries`), el("div", { className: "chips" }, ...chips));
    }
    return inside;
  },

  word(step) {
    const word = data.words[step.word], p = parts.words;
    $("says").textContent = `Text so far: “${word.soFar}”`;
    const inside = [...heading("The next word", "how probable each was"), likely(word.likely, word.text)];
    if (!p) { picture(null, 0, ""); return inside; }
    const w = weights(p, step.word), Q = map("queries").T, read = map("words").S;
    const mixed = overPatches(w.subarray(0, Q), p.chosen);
    const part = w.subarray(0, Q).reduce((a, b) => a + b, 0), q = parts.queries;
    const how = q.layer === ROLLOUT ? "rollout" : q.layer < 0 ? "all layers" : `layer ${q.layerNames[q.layer]}`;
    const whose = p.chosen < 0 ? "Patches, by way of all queries" : `Patches, by way of query ${p.chosen + 1}`;
    picture(mixed, 0, `${whose} (the queries' own maps: ${how}). ${strongest(mixed)}`);
    const top = Math.max(...w);
    const queries = Array.from({ length: Q }, (_, i) => chip(`q${i + 1}`, w[i], top, p.chosen === i, choose(p, i), "query"));
    const about = `${percent(part)} of the weight lies on them. Choose one to see its patches alone; again, for all of them.`;
    inside.push(...heading("Over the queries", about), el("div", { className: "chips" }, ...queries));
    const own = map("wordsOwn"), chips = [];  // T5: the words before have maps of their own
    for (let i = Q; i < Math.min(read, w.length); i++) {
      const past = !own && w[i] === 0 && i > word.row;
      if (!past) chips.push(chip(data.places[i], w[i], top, false, null));
    }
    inside.push(...heading(own ? "Over the prompt" : "Over the prompt and the words before"), el("div", { className: "chips" }, ...chips));
    if (own) {
      const before = p.layer === ROLLOUT ? w.subarray(read) : row(own, p.layer, p.head, step.word), most = Math.max(...before);
      const written = Array.from(before.subarray(0, step.word + 1), (v, i) => chip(data.places[read + i], v, most, false, null));
      inside.push(...heading("Over the words before, in maps of their own"), el("div", { className: "chips" }, ...written));
    }
    return inside;
  },

  pair(step) {
    const p = parts.pair, T = map("wordsOverPatches").T, patch = p.chosen >= T ? p.chosen - T : -1;
    $("says").textContent = "Words look at patches while patches look at words. Choose a word, or a patch in the picture.";
    let overPicture, overText;
    if (patch < 0) {
      overPicture = weights(p, p.chosen);
      overText = weights(p, p.chosen, "wordsOverWords", "wordsOverWordsRollout");
      picture(overPicture, 0, `“${data.places[p.chosen]}” is looking. ${strongest(overPicture)}`);
    } else {
      overPicture = weights(p, patch, "patchesOverPatches", "patchesOverPatchesRollout");
      overText = weights(p, patch, "patchesOverWords", "patchesOverWordsRollout");
      picture(overPicture, patch, `${sentence(patchName(patch))} is looking${overPicture ? ` at the other patches. ${strongest(overPicture)}` : "."}`);
    }
    const who = patch < 0 ? `“${data.places[p.chosen]}”` : sentence(patchName(patch)), top = overText ? Math.max(...overText) : 0;
    const words = data.places.map((text, t) => chip(text, overText && overText[t], top, p.chosen === t, choose(p, t)));
    const each = data.places.map((text, t) => thumb(text, weights(p, t), p.chosen === t, choose(p, t)));
    const classToken = chip("class token", null, 0, patch === 0, choose(p, T));
    return [...heading(`${who} over the words`, "how much it takes from each; choose one to look with its eyes"),
      el("div", { className: "chips" }, ...words, classToken),
      ...heading("Each word over the patches"), el("div", { className: "thumbs" }, ...each)];
  },

  answer() {
    picture(null, 0, `“${data.text}”`);
    $("says").textContent = data.answers.length ? "Do text and picture belong together?" : "Which words belong where the text says <mask>?";
    if (data.answers.length) return [likely(data.answers, null)];
    const masked = data.words.filter((word) => word.text === "<mask>");
    return (masked.length ? masked : data.words).flatMap((word) =>
      [...heading(`in place ${word.row + 1}, “${word.text}”`), likely(word.likely, null)]);
  },
};

function sentence(text) {
  return text[0].toUpperCase() + text.slice(1);
}

// A word looks at queries, and those look at patches: the product of the two maps.
function overPatches(w, only) {
  const sum = new Float32Array(rows * columns + 1);
  for (let q = 0; q < w.length; q++) {
    if (only >= 0 && q !== only) continue;
    const share = only >= 0 ? 1 : w[q], one = weights(parts.queries, q);
    for (let n = 0; n < one.length; n++) sum[n] += share * one[n];
  }
  return sum;
}

function picture(w, marked, text) {
  draw($("picture"), w, 720, marked);
  $("caption").textContent = text;
  $("picture").setAttribute("aria-label", text);
}

// ---- stages --------------------------------------------------------------------------------------------------------
function stagesOf(step) {
  const first = (stage) => stage.name === "blocks.embed_picture";
  if (step.kind === "patches") return data.stages.filter((stage) => towers ? step.stages.includes(stage.part) : first(stage));
  return data.stages.filter((stage) => step.stages.includes(stage.part) && !first(stage));
}

function whole(shapes) {  // no line break inside a shape
  return shapes.replace(/\([^)]*\)/g, (shape) => shape.replaceAll(" ", "\u00a0"));
}

function showStages(step) {
  const body = $("stages").querySelector("tbody");
  const cells = (stage) => [
    ["td", "\u00a0".repeat(3 * stage.depth) + stage.name, ""], ["td", stage.about, "plain"], ["td", whole(stage.inputs), "shape"],
    ["td", whole(stage.output), "shape"], ["td", `${stage.count} ×`, "plain"], ["td", stage.where, ""], ["td", stage.called, ""],
  ];
  body.replaceChildren(...stagesOf(step).map((stage) => el("tr", {}, ...cells(stage).map(([tag, text, name]) =>
    el(tag, { className: name }, name === "plain" ? text : el("code", { textContent: text }))))));
}

// ---- the controls --------------------------------------------------------------------------------------------------
function options(select, pairs, value) {
  select.replaceChildren(...pairs.map(([v, text]) => el("option", { value: v, textContent: text })));
  select.value = value;
  select.disabled = pairs.length < 2;
}

function showChoices(step) {
  const p = step.part && parts[step.part];
  if (!p) {
    options($("layer"), [[AVERAGE, "–"]], AVERAGE);
    options($("head"), [[AVERAGE, "–"]], AVERAGE);
    return;
  }
  const m = map(p.maps), rollout = map(p.rollout) ? [[ROLLOUT, "rollout"]] : [];
  const layers = p.layerNames.map((name, l) => [l, `${name}`]);
  const average = step.kind === "pair" ? [] : [[AVERAGE, "average of all"]];
  options($("layer"), [...average, ...rollout, ...layers], p.layer);
  const heads = m.H > 1 ? Array.from({ length: m.H }, (_, h) => [h, `${h + 1}`]) : [];
  options($("head"), [[AVERAGE, "average of all"], ...heads], p.head);
  $("head").disabled ||= p.layer === ROLLOUT;
}

function show() {
  const step = steps[now];
  $("slider").value = now;
  $("slider").setAttribute("aria-valuetext", step.title);
  $("counter").textContent = `${now + 1} / ${steps.length}`;
  if ($("step").textContent !== step.title) $("step").textContent = step.title;
  showChoices(step);
  const focused = [...$("panel").querySelectorAll("button")].indexOf(document.activeElement);
  $("panel").replaceChildren(...shows[step.kind](step));
  if (focused >= 0) $("panel").querySelectorAll("button")[focused]?.focus();  // the button that was pressed is a new one now
  showStages(step);
}

function go(to) {
  now = Math.max(0, Math.min(steps.length - 1, to));
  const step = steps[now];
  if (step.kind === "pair") parts.pair.layer = step.layer;
  show();
}

function play(on) {
  clearInterval(timer);
  timer = on ? setInterval(() => (now + 1 < steps.length ? go(now + 1) : play(false)), 1500) : 0;
  $("play").textContent = on ? "❚❚ Pause" : "▶ Play";
  $("play").setAttribute("aria-label", on ? "Pause" : "Play");
}

function pick(name, value) {
  const p = steps[now].part && parts[steps[now].part];
  if (!p) return;
  const other = steps.findIndex((step) => step.kind === "pair" && step.layer === value);
  if (steps[now].kind === "pair" && name === "layer") return other >= 0 && go(other);  // there each layer is a step
  p[name] = value;
  show();
}

function turn(name, by) {  // the next of a select's options, round and round
  const select = $(name);
  if (select.disabled) return;
  const to = (select.selectedIndex + by + select.options.length) % select.options.length;
  pick(name, Number(select.options[to].value));
}

$("back").onclick = () => { play(false); go(now - 1); };
$("forward").onclick = () => { play(false); go(now + 1); };
$("play").onclick = () => { if (!timer && now + 1 >= steps.length) go(0); play(!timer); };
$("slider").max = steps.length - 1;
$("slider").oninput = () => { play(false); go(Number($("slider").value)); };
$("layer").onchange = () => pick("layer", Number($("layer").value));
$("head").onchange = () => pick("head", Number($("head").value));

const keys = {
  ArrowLeft: () => $("back").click(), ArrowRight: () => $("forward").click(), " ": () => $("play").click(),
  Home: () => { play(false); go(0); }, End: () => { play(false); go(steps.length - 1); },
  l: () => turn("layer", 1), L: () => turn("layer", -1), h: () => turn("head", 1), H: () => turn("head", -1),
  r: () => pick("layer", ROLLOUT), a: () => { pick("layer", AVERAGE); pick("head", AVERAGE); },
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  const tag = event.target.tagName;
  if (tag === "SELECT" || (tag === "INPUT" && event.key !== " ") || (event.key === " " && (tag === "BUTTON" || tag === "SUMMARY"))) return;
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
});

// A patch of the picture can be chosen where patches look: by a click or by the arrows.
function choosePatch(n) {
  const step = steps[now];
  if (step.kind === "vision") parts.vision.chosen = n;
  else if (step.kind === "pair") parts.pair.chosen = map("wordsOverPatches").T + n;
  else return false;
  show();
  return true;
}

$("picture").onclick = (event) => {
  const box = $("picture").getBoundingClientRect();
  const x = Math.floor((event.clientX - box.left) / box.width * wide / data.patch);
  const y = Math.floor((event.clientY - box.top) / box.height * high / data.patch);
  choosePatch(1 + Math.min(rows - 1, Math.max(0, y)) * columns + Math.min(columns - 1, Math.max(0, x)));
};

$("picture").onkeydown = (event) => {
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }, step = steps[now];
  if (!moves[event.key] || !["vision", "pair"].includes(step.kind)) return;
  const T = step.kind === "pair" ? map("wordsOverPatches").T : 0, old = Math.max(1, (step.kind === "pair" ? parts.pair : parts.vision).chosen - T);
  const x = ((old - 1) % columns + moves[event.key][0] + columns) % columns, y = (Math.floor((old - 1) / columns) + moves[event.key][1] + rows) % rows;
  event.preventDefault();
  choosePatch(1 + y * columns + x);
};

const about = data.kind === "bridgetower"
  ? [`${data.model} reads “`, el("b", { textContent: data.text }), "” beside a picture."]
  : data.prompt ? [`${data.model}. “${data.prompt}” → `, el("b", { textContent: data.text })]
    : [`${data.model} says: `, el("b", { textContent: data.text })];
$("about").append(...about);
$("notes").textContent = data.notes.length ? ` ${data.notes.join(" ")}` : "";
image.decode().then(() => go(0));
