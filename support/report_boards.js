"use strict";
// The script of report.html: first elements and boards; then report_charts.js; then report.js, which puts them to use.
// support/report.py says what is in `groups`: puzzles, and runs that thought about them.
const groups = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);

// ---- Elements, numbers, tokens ----------------------------------------------------------------------------------

const DRAWN = new Set("svg g rect circle line path text title".split(" "));
/** A new element. Children are elements, or strings, which become text whatever they look like. */
function el(name, attributes = {}, ...children) {
  const node = DRAWN.has(name) ? document.createElementNS("http://www.w3.org/2000/svg", name)
                               : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(key, value);
  node.append(...children);
  return node;
}
const percent = (v, digits = 1) => v === null || v === undefined || v === "" ? "–" : (100 * v).toFixed(digits) + " %";
const whole = v => v.toLocaleString("en");
const sigmoid = q => 1 / (1 + Math.exp(-q));
const many = (n, one) => `${whole(n)} ${one}${n === 1 ? "" : "s"}`;

/** Base-36 text -> tokens; zeros at the end had been left out. */
function unpack(text, g) {
  const tokens = new Array(g.cells).fill(0);
  for (let i = 0; i * g.width < text.length; i++) tokens[i] = parseInt(text.substr(i * g.width, g.width), 36);
  return tokens;
}
/** The answer after step s, from 1, or after the last. An empty text stands for the one before. */
function answer(thought, s, g) {
  let k = Math.min(s, thought.a.length) - 1;
  while (k > 0 && !thought.a[k]) k--;
  return unpack(thought.a[k], g);
}

/** The step after which a thought is right and stays so; 0: wrong at the end, or nobody knows. */
function rightFrom(thought) {
  let s = thought.s.length;
  while (s > 0 && thought.s[s - 1] > 0) s--;
  return s < thought.s.length ? s + 1 : 0;
}
/** The first step at which it is sure, q > 0, and would halt; 0: never. */
const sureFrom = thought => thought.q.findIndex(q => q > 0) + 1;

// ---- Boards -----------------------------------------------------------------------------------------------------

const ARC = "#000000 #0074d9 #ff4136 #2ecc40 #ffdc00 #aaaaaa #f012be #ff851b #7fdbff #870c25".split(" ");
const strike = (x, y) => el("line", {class: "strike", x1: x + 2, y1: y + 8, x2: x + 8, y2: y + 2});
const rect = (kind, x, y, in_ = 0) =>
  el("rect", {class: kind, x: x + in_, y: y + in_, width: 10 - 2 * in_, height: 10 - 2 * in_});
function write(kind, x, y, token) {
  const length = [...String(token)].length, size = [6.4, 6.4, 5, 3.6][length] || 14 / length;
  return el("text", {class: kind, x: x + 5, y: y + 5 + size * .36, style: `font-size: ${size}px`}, String(token));
}

// Each draws one cell: o.x the question, o.a the answer (null: none yet), o.t the right one, o.p the answer before
// (null: there was none), at index i. They return elements.
const DRAW = {
  sudoku(o, i, x, y) {
    const given = o.x[i] > 1, token = given || !o.a ? o.x[i] : o.a[i], bad = isWrong(o, i);
    return [rect(given ? "given" : "cell", x, y),
            token > 1 ? write(given ? "bold" : bad ? "wrong" : "right", x, y, token - 1) : "",
            bad ? strike(x, y) : "", hasChanged(o, i) && !given ? rect("frame", x, y, .8) : ""];
  },
  maze(o, i, x, y) {
    const asked = o.x[i], path = o.a && o.a[i] === 5, bad = isWrong(o, i);
    const missed = o.a && o.t && o.t[i] === 5 && !path;
    return [rect(asked === 1 ? "wall" : asked === 3 || asked === 4 ? "given" : "cell", x, y),
            asked === 3 || asked === 4 ? write("bold", x, y, "SG"[asked - 3]) : "",
            path ? el("circle", {class: bad ? "dot wrong" : "dot", cx: x + 5, cy: y + 5, r: 2.4}) : "",
            missed ? el("circle", {class: "ring", cx: x + 5, cy: y + 5, r: 2.2}) : bad ? strike(x, y) : "",
            hasChanged(o, i) ? rect("frame", x, y, .8) : ""];
  },
  tokens(o, i, x, y) {
    const token = o.a ? o.a[i] : o.x[i], bad = isWrong(o, i), idle = o.a && o.t && !o.t[i];
    return [rect(o.a ? "cell" : "given", x, y),
            write(idle || !token ? "pale" : !o.a ? "bold" : bad ? "wrong" : "right", x, y, symbol(token)),
            bad ? strike(x, y) : "", hasChanged(o, i) && !idle ? rect("frame", x, y, .8) : ""];
  },
  arc(o, i, x, y) {  // 0 nothing, 1 the edge, 2 .. 11 the colours 0 .. 9
    const token = o.a ? o.a[i] : o.x[i], c = token - 2, bad = isWrong(o, i), changed = hasChanged(o, i);
    const cell = rect(c >= 0 ? "thin" : "missing", x, y, .1);
    if (c >= 0) cell.setAttribute("style", `fill: ${ARC[c]}`);
    const digit = c > 0 ? write("bold", x, y, c) : "";
    if (digit) digit.style.fill = [3, 4, 5, 7, 8].includes(c) ? "#000000" : "#ffffff";
    const line = strike(x, y), halo = strike(x, y);
    halo.setAttribute("class", "halo");
    return [cell, digit, ...bad ? [halo, line] : [],
            ...changed ? [rect("halo", x, y, .9), rect("frame", x, y, .9)] : []];
  },
};
const symbol = token => g.symbols.length ? g.symbols[token] : String(token);  // of one's own tokens
// Where nothing is labelled, nothing can be wrong; but an ARC answer ends where its grid does.
const isWrong = (o, i) => Boolean(o.a && o.t && (o.t[i] || o.whole) && o.a[i] !== o.t[i] && (!o.whole || seen(o, i)));
const seen = (o, i) => o.a[i] > 1 || o.t[i] > 1;  // the tokens around a grid are not cells
const hasChanged = (o, i) => Boolean(o.p && o.p[i] !== o.a[i] && (!o.whole || o.p[i] > 1 || o.a[i] > 1));

/** A figure: one grid with its caption. An ARC board is as large as the largest of the grids in `sizes`. */
function board(g, caption, o, big = false, sizes = [o.a || o.x]) {
  let columns = g.columns, rows = g.cells / columns, wide = columns;  // wide: cells from row to row
  if (columns === g.cells) { columns = wide = Math.min(columns, 20); rows = Math.ceil(g.cells / columns); }
  if (o.whole) {
    const cells = sizes.flatMap(t => t.flatMap((token, i) => token > 1 ? [i] : []));
    rows = 1 + Math.max(0, ...cells.map(i => Math.floor(i / wide)));
    columns = 1 + Math.max(0, ...cells.map(i => i % wide));
  }
  const size = Math.min((big ? 400 : 250) * (columns > 12 ? 1.5 : 1), columns * (big ? 58 : 32));
  const svg = el("svg", {viewBox: `-.5 -.5 ${10 * columns + 1} ${10 * rows + 1}`, role: "img", class: "board",
                         "aria-label": caption, style: `max-width: ${size}px`}), above = [];
  for (let i = 0; i < g.cells; i++) {
    const x = i % wide, y = Math.floor(i / wide);
    if (x < columns && y < rows) for (const part of DRAW[g.kind](o, i, 10 * x, 10 * y))
      if (part) { if (part.matches(".frame, .halo, .strike")) above.push(part); else svg.append(part); }
  }
  const [down, across] = g.box || [rows, columns], kind = (k, box) => k % box ? "thin" : "thick";
  for (let k = 0; k <= columns && !o.whole; k++)
    svg.append(el("path", {class: kind(k, across), d: `M${10 * k} 0V${10 * rows}`}));
  for (let k = 0; k <= rows && !o.whole; k++)
    svg.append(el("path", {class: kind(k, down), d: `M0 ${10 * k}H${10 * columns}`}));
  svg.append(...above);
  return el("figure", {style: `width: ${Math.max(9.5 * caption.length, size)}px`}, el("figcaption", {}, caption), svg);
}

/** One cell as it is drawn on the boards of g, for the legend. */
const sample = (g, o) => el("svg", {viewBox: "0 0 10 10", "aria-hidden": "true", class: "board cell-key"},
                            ...DRAW[g.kind](o, 0, 0, 0));
/** What is drawn on the boards of g: pairs of a cell and what it means. */
function meanings(g) {
  const x = [1], whole = g.kind === "arc";
  if (g.kind === "maze") return [[{x}, "wall"], [{x: [3]}, "start"], [{x: [4]}, "goal"], [{x: [2], a: [5]}, "path"],
    [{x: [2], a: [2], t: [5]}, "missed"], [{x: [2], a: [5], t: [2]}, "wrong"],
    [{x: [2], a: [5], p: [2]}, "changed in this step"]];
  const first = whole ? [[{x: [0]}, "no cell"]] : g.kind === "sudoku" ? [[{x: [4]}, "given"], [{x, a: [4]}, "answered"]]
                      : [[{x}, "asked"], [{x, a: [1]}, "answered"]];
  const [now, other] = whole || g.kind === "sudoku" ? [[4], [5]] : [[1], [2]];
  return [...first, [{x, whole, a: now, t: other}, "wrong"], [{x, whole, a: now, p: other}, "changed in this step"]];
}

/** The answer in letters, x before what is wrong: to be read aloud, or copied. */
function asText(g, o) {
  const sign = {maze: token => " #.SGo"[token] || "?", sudoku: token => token > 1 ? token - 1 : ".",
                arc: token => token > 1 ? token - 2 : ".", tokens: symbol}[g.kind];
  const texts = (o.a || o.x).map(token => String(sign(token))), wide = Math.max(...texts.map(t => t.length));
  return texts.map((text, i) => (isWrong(o, i) ? "x" : " ") + text.padStart(wide) +
                                (i % g.columns === g.columns - 1 ? "\n" : " ")).join("");
}
