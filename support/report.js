"use strict";
// The script of report.html. support/report.py says what is in `groups`: puzzles, and runs that thought about them.
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
  const size = Math.min((big ? 400 : 190) * (columns > 12 ? 1.5 : 1), columns * (big ? 58 : 32));
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

/** The answer in letters, x before what is wrong: to be read aloud, or copied. */
function asText(g, o) {
  const sign = {maze: token => " #.SGo"[token] || "?", sudoku: token => token > 1 ? token - 1 : ".",
                arc: token => token > 1 ? token - 2 : ".", tokens: symbol}[g.kind];
  const texts = (o.a || o.x).map(token => String(sign(token))), wide = Math.max(...texts.map(t => t.length));
  return texts.map((text, i) => (isWrong(o, i) ? "x" : " ") + text.padStart(wide) +
                                (i % g.columns === g.columns - 1 ? "\n" : " ")).join("");
}

// ---- Charts -----------------------------------------------------------------------------------------------------

/** About n round numbers from low to high. */
function ticks(low, high, n = 5) {
  const raw = (high - low) / n || 1, ten = 10 ** Math.floor(Math.log10(raw));
  const by = ten * ([1, 2, 5, 10].find(k => k * ten >= raw) || 10), list = [];
  for (let k = Math.ceil(low / by); k * by <= high * (1 + 1e-9); k++) list.push(Number((k * by).toPrecision(6)));
  return list;
}
const MARKS = ["M-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0", "M-3-3h6v6h-6z", "M0-4l4 4l-4 4l-4-4z", "M0-4l4 7h-8z"];

/** One chart. c: title, note, x and y: {low, high, name, text(number), ticks}, draw(X, Y) -> elements; and head and
    rows of the table that says the same. */
function chart({title, note, x, y, draw, head, rows}) {
  const W = 360, H = 220, left = 58, right = 342, top = 8, low = 182;
  const X = v => left + (v - x.low) / (x.high - x.low || 1) * (right - left);
  const Y = v => low - (v - y.low) / (y.high - y.low || 1) * (low - top);
  const svg = el("svg", {viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${title}. ${note}`});
  for (const t of ticks(y.low, y.high, 4))
    svg.append(el("line", {class: "grid", x1: left, x2: right, y1: Y(t), y2: Y(t)}),
               el("text", {x: left - 5, y: Y(t) + 3.5, class: "end"}, y.text(t)));
  for (const t of x.ticks || ticks(x.low, x.high))
    svg.append(el("text", {x: X(t), y: low + 14, class: "middle"}, x.text(t)));
  svg.append(el("line", {class: "axis", x1: left, x2: right, y1: low, y2: low}),
             el("text", {x: (left + right) / 2, y: H - 6, class: "middle"}, x.name),
             el("text", {class: "middle", transform: `translate(12 ${low / 2}) rotate(-90)`}, y.name), ...draw(X, Y));
  const row = (cells, tag) => el("tr", {}, ...cells.map(v => el(tag, {}, String(v))));
  const table = el("table", {}, el("thead", {}, row(head, "th")), el("tbody", {}, ...rows.map(r => row(r, "td"))));
  return el("figure", {class: "panel"}, el("figcaption", {}, el("h3", {}, title), el("small", {}, note)), svg,
    fold("the numbers", el("div", {class: "scroll", tabindex: 0, role: "group", "aria-label": title}, table)));
}
const fold = (text, ...inside) => el("details", {}, el("summary", {}, el("small", {}, text)), ...inside);
const mark = (k, x, y, shape = k) => el("path", {class: `mark s${k % 4}`, d: MARKS[shape % 4],
                                                 transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})`});
/** The line of run k: points [x, y] on paper, with a mark on each while they are few. */
function line(points, k) {
  const d = "M" + points.map(p => p.map(v => v.toFixed(1)).join(" ")).join("L");
  return el("g", {class: `s${k % 4}`}, el("path", {class: "series", d}),
            ...points.length > 20 ? [] : points.map(([x, y]) => mark(k, x, y)));
}

function charts({runs, kind}) {
  const list = [], of = r => runs.length > 1 ? `: ${r.name}` : "", index = r => runs.indexOf(r);
  const share = {low: 0, high: 1, name: "right", text: v => `${Math.round(100 * v)} %`};
  const number = v => v >= 1e4 ? `${v / 1e3}k` : String(v), longest = Math.max(...runs.map(r => r.steps));

  const stepped = runs.filter(r => r.result.by_step);
  if (stepped.length) list.push(chart({
    title: "Right after each step", head: ["step", ...stepped.map(r => r.name)],
    note: kind === "arc" ? "test inputs that the plain copy alone has right, without a vote" : "puzzles exactly right",
    x: {low: 1, high: Math.max(2, longest), name: "supervision step", text: String,
        ticks: ticks(1, longest).filter(Number.isInteger)}, y: share,
    rows: Array.from({length: longest}, (_, s) => [s + 1, ...stepped.map(r => percent(r.result.by_step[s]))]),
    draw: (X, Y) => stepped.map(r => line(r.result.by_step.map((v, s) => [X(s + 1), Y(v)]), index(r)))}));

  for (const r of runs.filter(r => r.known)) {
    const [good, bad] = r.halting, S = r.steps, parts = (n, s) => [["right", 0, n], ["wrong", n, bad[s]]];
    list.push(chart({
      title: "Steps until it is sure" + of(r), head: ["step", "right", "wrong"],
      note: "the first step with q > 0, where it would halt; blue: right then, hatched red: wrong",
      x: {low: .4, high: S + 1.6, name: "supervision step", text: v => v > S ? "never" : v,
          ticks: [...ticks(1, S).filter(v => Number.isInteger(v) && v < .85 * S + .5), S + 1]},
      y: {low: 0, high: Math.max(1, ...good.map((n, s) => n + bad[s])), name: "puzzles", text: number},
      rows: good.map((n, s) => [s < S ? s + 1 : "never", whole(n), whole(bad[s])]),
      draw: (X, Y) => good.flatMap((n, s) => parts(n, s).filter(b => b[2]).map(([kind, from, much]) =>
        el("rect", {class: "bar-" + kind, x: X(s + .62), width: X(1) - X(.24), y: Y(from + much),
                    height: Y(0) - Y(much)})))}));
  }

  const binned = runs.filter(r => r.bins.length), few = binned.length === 1;  // else numbers hide each other
  if (binned.length) list.push(chart({
    title: "Can q be believed?", head: ["run", "belief", "right", "answers"],
    note: "how often the last answers are right against how sure q is of them; honest: on the diagonal. Bars: one " +
          "standard error (Wilson)" + (few ? "; the numbers count answers" : ""),
    x: {...share, name: "belief, sigmoid(q)"}, y: {...share, name: "share right"},
    rows: binned.flatMap(r => r.bins.map(([b, p, n]) => [r.name, percent(b), percent(p), whole(n)])),
    draw: (X, Y) => [el("path", {class: "grid", d: `M${X(0)} ${Y(0)}L${X(1)} ${Y(1)}`}),
      ...binned.flatMap(r => r.bins.map(([b, p, n], k) => {
        const middle = (n * p + .5) / (n + 1), half = Math.sqrt(n * p * (1 - p) + .25) / (n + 1), end = b > .85;
        return el("g", {class: `s${index(r) % 4}`}, mark(index(r), X(b), Y(p)),
          el("path", {class: "series solid", d: `M${X(b)} ${Y(middle - half)}V${Y(middle + half)}`}),
          few ? el("text", {x: X(b) + (end ? -6 : 6), y: Y(p) + (p < .12 ? -6 - 13 * (k % 2) : 12 + 13 * (k % 2)),
                            class: end ? "end" : null}, whole(n)) : "");
      }))]}));

  const logged = runs.filter(r => r.curves.means), last = Math.max(...logged.map(r => r.curves.means.at(-1)[0]));
  const loss = Math.max(...logged.flatMap(r => r.curves.means.map(m => m[1])));
  const looks = r => r.curves.looks.length ? "; diamonds: held-out ones, by the averaged weights" : "";
  for (const at of logged.length ? [1, 2] : []) list.push(chart({
    title: `${["Loss", "Right"][at - 1]} while training`, head: ["run", "step", ["loss", "right"][at - 1]],
    note: at === 1 ? "of answers and halting" : "training puzzles, when they halt" + logged.map(looks).sort().at(-1),
    x: {low: 0, high: last, name: "optimizer step", text: number},
    y: at === 1 ? {low: 0, high: loss, name: "loss", text: number} : share,
    rows: logged.flatMap(r => r.curves.means.map(m => [r.name, m[0], m[at]])),
    draw: (X, Y) => logged.flatMap(r => [line(r.curves.means.map(m => [X(m[0]), Y(m[at])]), index(r)),
      ...at === 2 ? r.curves.looks.map(p => mark(index(r), X(p[0]), Y(p[1]), 2)) : []])}));
  return list;
}

// ---- What stands once: title, figures, charts, facts -------------------------------------------------------------

function tiles(r) {
  const f = r.result, S = r.steps, [good, bad] = r.halting, n = [...good, ...bad].reduce((a, b) => a + b, 0), all = [];
  if (f.pass_at) {
    for (const k of ["1", "2"]) if (k in f.pass_at)
      all.push([percent(f.pass_at[k]), `pass@${k}, the mean of ${whole(f.puzzles)} tasks`]);
    all.push([whole(f.predictions), "predictions, which vote"]);
  } else all.push([percent(f.exact_accuracy), `of ${whole(f.puzzles)} puzzles exactly right`],
                  [percent(f.cell_accuracy), "of the cells right"]);
  if ("valid_path_accuracy" in f)
    all.push([percent(f.valid_path_accuracy), "a shortest path, the labelled one or another"]);
  if (n) {
    const steps = good.reduce((sum, _, s) => sum + Math.min(s + 1, S) * (good[s] + bad[s]), 0) / n;
    const never = percent((good[S] + bad[S]) / n, 0);
    all.push([steps.toFixed(1), `steps of ${S} until it is sure, on average; never: ${never}`],
             [percent(good.reduce((a, b) => a + b, 0) / n), "right, if each had stopped when it was first sure"],
             [percent(r.counts.sure / n), "sure at the end, but wrong"]);
  }
  const tile = ([big, small]) => el("div", {}, el("b", {}, big), el("small", {}, small));
  return el("div", {}, el("h2", {class: "name"}, r.name), el("div", {class: "tiles"}, ...all.map(tile)),
            ...r.remarks.map(text => el("p", {class: "soft"}, text)));
}
function nameOf({kind, columns, cells}) {
  const size = `${cells / columns}×${columns} `;
  return kind === "arc" ? "ARC" : kind === "sudoku" ? size + "Sudoku" : kind === "maze" ? size + "mazes" :
         columns === cells ? `sequences of ${cells} tokens` : size + "grids";
}
const key = (kind, sign, text) => el("span", {class: "key"}, el("i", {class: kind, "aria-hidden": "true"}, sign), text);
const keyOf = (r, k) => el("span", {class: `key s${k % 4}`}, el("svg", {viewBox: "-14 -5 28 10", "aria-hidden": "true"},
                           el("path", {class: "series", d: "M-14 0H14"}), mark(k, 0, 0)), r.name);

/** Show the puzzles and runs of group k. */
function showGroup(k) {
  g = groups[k];
  const some = g.runs[0], all = g.puzzles.length === some.total, sign = g.kind === "maze" ? "●" : "3";
  document.title = $("title").textContent = `TinyTRM on ${nameOf(g)}`;
  $("about").textContent = "A small network fills in all cells at once, looks at the question, its answer and a " +
    "scratchpad, and fills in all cells again: each round is a supervision step. After each it also says how sure " +
    "it is that all is right: q, and above 0 means more likely than not." +
    (g.runs.length > 1 ? ` ${g.runs.length} runs, side by side.` : "");
  $("figures").replaceChildren(...g.runs.map(tiles));
  $("sample").textContent = `${whole(g.puzzles.length)} of ${whole(some.total)} puzzles can be looked at here` +
    (all ? "." : "; wrong and slow ones are among them, if there are any.") +
    (some.thought < some.total ? ` The charts of q come from ${whole(some.thought)} of them all.` : "") +
    (g.kind === "arc" ? " ✓ and ✗ in the list judge the vote; the steps are those of the plain copy." : "");
  const signs = {maze: [["wall", "", "wall"], ["given", "S", "start, goal"], ["right", "●", "path"],
                        ["", "○", "missed"]],
                 arc: [["", "┄", "no cell"]]}[g.kind] || [["given", "3", "given"], ["right", "3", "answered"]];
  $("legend").replaceChildren(...[...signs, ["wrong", sign, "wrong"], ["changed", sign, "changed in this step"]].map(
    some => key(...some)), el("span", {class: "key"}, "bars: how sure it was, 0 to 100 % (line: 50 %, q = 0), and " +
    "coloured by whether it was right, which it does not know"));
  $("names").replaceChildren(...g.runs.length > 1 ? g.runs.map(keyOf) : []);
  $("charts").replaceChildren(...charts(g));
  const pairs = r => r.facts.flatMap(([what, much]) => [el("dt", {}, what), el("dd", {}, much)]);
  $("facts").replaceChildren(...g.runs.map(r => el("div", {class: "panel"}, el("h3", {}, r.name),
                                                   el("dl", {}, ...pairs(r)))));
  $("step").max = Math.max(...g.runs.map(r => r.steps));
  $("filters").replaceChildren($("filters").firstElementChild, ...FILTERS.map(([mark, sign, text]) => {
    const count = choose(mark).length, box = el("input", {type: "radio", name: "filter", value: mark});
    box.disabled = !count;
    box.onchange = () => { stop(); filter(mark, shown()); };
    return el("label", {}, box, `${sign}${text} (${count})`);
  }));
  step = 1;
  filter("all", [...choose("slow"), ...choose("right"), 0][0]);  // first, one that shows how it thinks
}

// ---- The browser of puzzles -------------------------------------------------------------------------------------

const FILTERS = [["all", "", "all"], ["right", "✓ ", "right"], ["wrong", "✗ ", "wrong"],
                 ["sure", "! ", "sure but wrong"], ["early", "! ", "sure too early"],
                 ["slow", "", "slow: over twice the usual steps"]];
let g, list, at, step, timer;  // the group, those of its puzzles that pass the filter, which of them is shown
const has = (i, mark) => g.runs.map(r => r.thoughts[i].m.includes(mark));
/** Puzzles with this mark: right in all of the runs, the others in any. */
const choose = mark => g.puzzles.map((_, i) => i).filter(i => mark === "all" ||
  (mark === "right" ? has(i, mark).every(Boolean) : has(i, mark).some(Boolean)));
const shown = () => list[at];
const titleOf = p => p.name ? `${p.n} ${p.name}` : `${p.n}`;

/** Show what has this mark; puzzle i, if it has, else the first one after it. */
function filter(mark, i) {
  list = choose(mark);
  at = Math.max(0, list.findIndex(k => k >= i));
  for (const box of $("filters").querySelectorAll("input")) box.checked = box.value === mark;
  const ends = k => g.runs.map((_, n) => has(k, "right")[n] ? "✓" : has(k, "sure")[n] ? "✗!" :
                                         has(k, "wrong")[n] ? "✗" : "?").join(" ");
  $("puzzle").replaceChildren(...list.map((k, j) => el("option", {value: j},
                                                       `puzzle ${titleOf(g.puzzles[k])}  ${ends(k)}`)));
  show();
}
function goTo(j) { if (j >= 0 && j < list.length) { at = j; show(); } }
function goStep(s) { step = Math.max(0, Math.min(Number($("step").max), s)); show(); }
function stop() {
  clearInterval(timer); timer = 0;
  $("play").textContent = "▶ Play"; $("play").setAttribute("aria-pressed", "false");
}
function play() {
  if (timer) return stop();
  if (step >= Number($("step").max)) goStep(0);
  $("play").textContent = "❚❚ Pause"; $("play").setAttribute("aria-pressed", "true");
  timer = setInterval(() => { goStep(step + 1); if (step >= Number($("step").max)) stop(); }, 800);
}

/** What is to be said of a run at this step: right or wrong; what changed, and q. */
function state(r, thought, o) {
  if (!step) return ["question", "not thought about yet"];
  const s = Math.min(step, r.steps), q = thought.q[s - 1], sum = f => o.a.filter((_, i) => f(o, i)).length;
  const verdict = {undefined: "? nobody knows the answer", 1: "✓ right", 2: "✓ right, by another path than the " +
                   "labelled one", 0: `✗ ${many(sum(isWrong), "cell")} wrong`}[thought.s[s - 1]];
  const belief = q === null ? "q is no number" :
    `q = ${q.toFixed(2)}, ${percent(sigmoid(q), 0)} sure: ${q > 0 ? "would halt" : "would go on"}`;
  return [verdict, `${o.p ? `${many(sum(hasChanged), "cell")} changed` : "first answer"}; ${belief}`];
}

/** The belief after each step, as bars that can be clicked, above the marks of right and wrong. */
function strip(r, thought) {
  const S = r.steps, w = 340 / (S + 1), few = w > 9, svg = el("svg", {viewBox: "0 0 374 66", class: "strip",
                                                                     "aria-hidden": "true"});
  svg.append(el("path", {class: "grid", d: "M30 27H374"}), el("text", {x: 0, y: 30, class: "pale"}, "50 %"));
  for (let s = 0; s <= S; s++) {
    const x = 32 + s * w, high = s ? 42 * sigmoid(thought.q[s - 1] ?? -99) : 0;
    const kind = thought.s[s - 1] > 0 ? "right" : "wrong";
    if (s) svg.append(el("rect", {class: `bar-${kind}`, x: x + w * .14, width: w * .72, y: 48 - high, height: high}));
    if (s && few) svg.append(el("text", {x: x + w / 2, y: 62, class: `middle ${kind}`},
                                !thought.s ? "?" : kind === "right" ? "✓" : "✗"));
    if (s === Math.min(step, S))
      svg.append(el("rect", {class: "now", x: x + .5, y: 2, width: Math.max(2, w - 1), height: 63, rx: 2}));
    const pick = el("rect", {class: "pick", x, y: 0, width: w, height: 66});
    pick.onclick = () => { stop(); goStep(s); };
    svg.append(pick);
  }
  return svg;
}

/** One run's view of the puzzle shown. What there is to say of it is added to `said`. */
function panel(r, said) {
  const p = g.puzzles[shown()], thought = r.thoughts[shown()], over = g.kind === "sudoku" || g.kind === "maze";
  const whole = g.kind === "arc", x = unpack(p.x, g), t = thought.s ? unpack(p.t, g) : null;
  const s = Math.min(step, r.steps);
  const o = {x, t, whole, a: s ? answer(thought, s, g) : null, p: s > 1 ? answer(thought, s - 1, g) : null};
  const [verdict, more] = state(r, thought, o), boards = (...some) => el("div", {class: "boards"}, ...some);
  said.push(`${g.runs.length > 1 ? r.name + ": " : ""}${verdict}; ${more}`);

  const now = [], sizes = whole ? [t || x, ...thought.a.map(a => unpack(a, g))] : [];
  if (!over) now.push(board(g, whole ? "test input" : "question", {x, whole}, true));
  if (over || s) now.push(board(g, s ? `answer after step ${s}` : "the question", o, true, sizes));
  if (t) now.push(board(g, over ? "the solution" : "the right answer", {x, a: t, t, whole}, !over));
  const attempt = (a, k) => board(g, `attempt ${k + 1}: ${a.votes} of ${many(thought.votes, "vote")}` +
    (t ? a.right ? " ✓ right" : " ✗ wrong" : ""), {x, a: unpack(a.t, g), whole});
  const example = ([a, b], k) => boards(board(g, `example ${k + 1}`, {x: unpack(a, g), whole}),
                                        board(g, "becomes", {x: unpack(b, g), whole}));
  const titled = (title, some) => some.length ? [el("h3", {}, title), boards(...some)] : [];
  const text = fold("as text", el("pre", {tabindex: 0}, asText(g, o)));
  text.open = open.has(r.name);
  text.ontoggle = () => open[text.open ? "add" : "delete"](r.name);
  return el("section", {class: "panel", "aria-label": r.name}, ...g.runs.length > 1 ? [el("h3", {}, r.name)] : [],
    el("div", {class: over && g.columns <= 12 ? "beside" : null}, el("div", {class: "mind"}, strip(r, thought),
       el("p", {class: "state"}, el("b", {}, verdict), el("br"), more)), boards(...now)),
    ...titled("The vote of all copies", thought.attempts.map(attempt)),
    ...titled("Seen in training", p.examples.map(example)), text);
}
const open = new Set();  // runs whose text is unfolded, and stays so from step to step

/** Draw the puzzle and step that are to be shown. */
function show() {
  const said = [], p = g.puzzles[shown()];
  $("panels").replaceChildren(...g.runs.map(r => panel(r, said)));
  $("puzzle").value = at;
  $("step").value = step;
  $("where").textContent = step ? `step ${step} of ${$("step").max}` : "the question";
  $("step").setAttribute("aria-valuetext", $("where").textContent);
  $("before").disabled = at === 0; $("after").disabled = at === list.length - 1;
  $("back").disabled = step === 0; $("forth").disabled = step >= Number($("step").max);
  $("live").textContent = `Puzzle ${titleOf(p)}, ${$("where").textContent}. ${said.join(". ")}`;
}

/** Go to the puzzle with this number, or whose name has these letters in it. */
function find(text) {
  const word = text.trim().toLowerCase(), by = f => g.puzzles.findIndex(f);
  const number = by(p => String(p.n) === word), i = number >= 0 ? number : by(p => p.name.toLowerCase().includes(word));
  const next = g.puzzles.find(p => p.n > Number(word)), hit = word && i >= 0;
  $("found").textContent = !word || hit ? "" : "not in this page" + (next ? `; the next is ${next.n}` : "");
  if (!hit) return;
  stop();
  if (list.includes(i)) goTo(list.indexOf(i)); else filter("all", i);
}

// ---- Hands ------------------------------------------------------------------------------------------------------

$("before").onclick = () => goTo(at - 1); $("after").onclick = () => goTo(at + 1);
$("back").onclick = () => { stop(); goStep(step - 1); }; $("forth").onclick = () => { stop(); goStep(step + 1); };
$("step").oninput = () => { stop(); goStep(Number($("step").value)); };
$("puzzle").onchange = () => goTo(Number($("puzzle").value));
$("play").onclick = play; $("find").onchange = () => find($("find").value);
document.addEventListener("keydown", e => {
  const inside = $("browser").contains(e.target);
  const box = e.target.matches("select, [type=search], [type=radio], [type=checkbox]");
  if (e.ctrlKey || e.metaKey || e.altKey || box || !inside && e.target !== document.body) return;
  const act = {ArrowLeft: () => { stop(); goStep(step - 1); }, ArrowRight: () => { stop(); goStep(step + 1); },
               j: () => goTo(at + 1), k: () => goTo(at - 1)}[e.key] ||
              // The page itself scrolls by these, so they are ours in the browser only.
              inside && {ArrowDown: () => goTo(at + 1), ArrowUp: () => goTo(at - 1)}[e.key] ||
              inside && e.key === " " && !e.target.matches("button, summary") && play;
  if (act) { e.preventDefault(); act(); }
});

if (groups.length > 1) {
  $("set").append(...groups.map((some, k) => el("option", {value: k},
                                                `${nameOf(some)}: ${some.runs.map(r => r.name).join(", ")}`)));
  $("set").onchange = () => { stop(); showGroup(Number($("set").value)); };
  $("sets").hidden = false;
}
const wanted = new URLSearchParams(location.hash.slice(1));
showGroup(0);
if (FILTERS.some(([mark]) => mark === wanted.get("show"))) filter(wanted.get("show"), 0);
if (wanted.get("puzzle")) find(wanted.get("puzzle"));
if (wanted.get("step")) goStep(Number(wanted.get("step")));

// ---- A run in training: its page is read again every minute in which nobody touches it, and stays where it was ----

const far = groups[0].runs[0].progress;
let touched = Date.now();
function reload() {
  if (!$("reload").checked || timer || Date.now() - touched < 50e3) return;
  const show = document.querySelector("#filters :checked").value;
  history.replaceState(null, "", "#" + new URLSearchParams({show, puzzle: g.puzzles[shown()].n, step}));
  location.reload();
}
if (far) {
  $("progress").hidden = false;
  $("far").textContent = far;
  $("reload").checked = wanted.get("reload") !== "no";
  for (const kind of ["keydown", "pointerdown"]) addEventListener(kind, () => { touched = Date.now(); });
  setInterval(reload, 60e3);
}
