// ---- Charts -----------------------------------------------------------------------------------------------------

/** About n round numbers from low to high. */
function ticks(low, high, n = 5) {
  const raw = (high - low) / n || 1, ten = 10 ** Math.floor(Math.log10(raw));
  const by = ten * ([1, 2, 5, 10].find(k => k * ten >= raw) || 10), list = [];
  for (let k = Math.ceil(low / by); k * by <= high * (1 + 1e-9); k++) list.push(Number((k * by).toPrecision(6)));
  return list;
}
/** The first tick above what is there, so that no bar ends beyond the last. */
function above(high) {
  const list = ticks(0, high, 4), by = list[1] - list[0] || 1;
  return list.at(-1) < high ? list.at(-1) + by : list.at(-1);
}
const MARKS = ["M-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0", "M-3-3h6v6h-6z", "M0-4l4 4l-4 4l-4-4z", "M0-4l4 7h-8z"];

/** One chart. c: title, note, x and y: {low, high, name, text(number), ticks}, draw(X, Y) -> elements; and head and
    rows of the table that says the same. */
function chart({title, note, x, y, draw, head, rows}) {
  const W = 360, H = 220, left = y.name ? 58 : 46, right = 336, top = 16, low = 180;
  const X = v => left + (v - x.low) / (x.high - x.low || 1) * (right - left);
  const Y = v => low - (v - y.low) / (y.high - y.low || 1) * (low - top);
  const svg = el("svg", {viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${title}. ${note}`});
  for (const t of ticks(y.low, y.high, 4))
    svg.append(el("line", {class: "grid", x1: left, x2: right, y1: Y(t), y2: Y(t)}),
               el("text", {x: left - 5, y: Y(t) + 4, class: "end"}, y.text(t)));
  for (const t of x.ticks || ticks(x.low, x.high))
    svg.append(el("text", {x: X(t), y: low + 16, class: "middle"}, x.text(t)));
  svg.append(el("line", {class: "axis", x1: left, x2: right, y1: low, y2: low}),
             el("text", {x: (left + right) / 2, y: H - 5, class: "middle"}, x.name),
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

/** The first values of a line, written where they differ enough to be told apart. */
function firsts(values, X, Y) {
  const some = [0, 1].filter(s => s < values.length && (!s || Math.abs(values[1] - values[0]) > .08));
  const place = s => ({x: X(s + 1) + 6, y: Y(values[s]) + (values[s] > .12 ? 15 : -7)});
  return some.map(s => el("text", place(s), percent(values[s])));
}
/** When a run would halt, and whether its answer is right then. */
function halts(r, of, number) {
  const [good, bad] = r.halting, S = r.steps, parts = (n, s) => [["right", 0, n], ["wrong", n, bad[s]]];
  const most = bad.indexOf(Math.max(...bad)), late = most > .6 * S, total = bad.reduce((a, b) => a + b, 0);
  return chart({
    title: "Steps until it is sure" + of, head: ["step", "right", "wrong"],
    note: "the first step at which it would stop (q > 0). Blue: the answer was right then; hatched red: wrong" +
          (total > bad[most] ? `, ${whole(total)} in all` : ""),
    x: {low: .4, high: S + 1.6, name: "step", text: v => v > S ? "never" : v,
        ticks: [1, ...ticks(1, S).filter(v => Number.isInteger(v) && v > 1 && v < .85 * S + .5), S + 1]},
    y: {low: 0, high: above(Math.max(1, ...good.map((n, s) => n + bad[s]))), name: "puzzles", text: number},
    rows: good.map((n, s) => [s < S ? s + 1 : "never", whole(n), whole(bad[s])]),
    draw: (X, Y) => [...good.flatMap((n, s) => parts(n, s).filter(b => b[2]).map(([kind, from, much]) =>
      el("rect", {class: `bar-${kind}${Y(0) - Y(much) < 6 ? " small" : ""}`, x: X(s + .62), width: X(1) - X(.24),
                  y: Y(from + much), height: Y(0) - Y(much)}))),
      bad[most] ? el("text", {class: late ? "wrong end" : "wrong", x: X(most + (late ? 1.38 : .62)),
                              y: Y(good[most] + bad[most]) - 4}, `${whole(bad[most])} wrong`) : ""]});
}

function charts({runs, kind}) {
  const list = [], of = r => runs.length > 1 ? ` – ${r.name}` : "", index = r => runs.indexOf(r);
  const share = {low: 0, high: 1.06, name: "", text: v => `${Math.round(100 * v)} %`};
  const number = v => v >= 1e4 ? `${v / 1e3}k` : String(v), longest = Math.max(...runs.map(r => r.steps));

  const stepped = runs.filter(r => r.result.by_step);
  if (stepped.length) list.push(chart({
    title: "Right after each step", head: ["step", ...stepped.map(r => r.name)],
    note: kind === "arc" ? "how many test inputs the plain copy alone has right, without a vote" :
          "how many puzzles would be exactly right if all stopped there",
    x: {low: 1, high: Math.max(2, longest), name: "step", text: String,
        ticks: [1, ...ticks(1, longest).filter(t => Number.isInteger(t) && t > 1)]}, y: share,
    rows: Array.from({length: longest}, (_, s) => [s + 1, ...stepped.map(r => percent(r.result.by_step[s]))]),
    draw: (X, Y) => stepped.flatMap(r => [line(r.result.by_step.map((v, s) => [X(s + 1), Y(v)]), index(r)),
      ...stepped.length > 1 ? [] : firsts(r.result.by_step, X, Y)])}));

  for (const r of runs.filter(r => r.known)) list.push(halts(r, of(r), number));
  for (const r of runs.filter(r => r.bins.length === 1))
    list.push(el("div", {class: "panel"}, el("h3", {}, "Can it be believed?" + of(r)), el("p", {},
      `It was always about equally sure: of ${many(r.bins[0][2], "answer")}, over all steps, with ` +
      `${percent(r.bins[0][0], 0)} belief on average, ${percent(r.bins[0][1], 0)} were right.`)));
  const binned = runs.filter(r => r.bins.length > 1), few = binned.length === 1;  // else numbers hide each other
  if (binned.length) list.push(chart({
    title: "Can it be believed?", head: ["run", "says it is sure", "is right", "answers"],
    note: "all answers of all steps, grouped by how sure it said it was. On the dashed line it would be right as " +
          "often as it says; below, it is too sure of itself." + (few ? " The numbers count answers." : ""),
    x: {...share, high: 1, name: "how sure it says it is"}, y: {...share, name: "how often it is right"},
    rows: binned.flatMap(r => r.bins.map(([b, p, n]) => [r.name, percent(b), percent(p), whole(n)])),
    draw: (X, Y) => [el("path", {class: "ideal", d: `M${X(0)} ${Y(0)}L${X(1)} ${Y(1)}`}),
      ...binned.flatMap(r => r.bins.flatMap(([b, p, n], k) => {
        const end = b > .85, low = p < .12;
        return [mark(index(r), X(b), Y(p)), few ? el("text", {x: X(b) + (end ? -7 : 7), class: end ? "end" : null,
          y: Y(p) + (low ? -6 - 13 * (k % 2) : 15)}, whole(n)) : ""];
      }))]}));

  const logged = runs.filter(r => r.curves.means), last = Math.max(...logged.map(r => r.curves.means.at(-1)[0]));
  const loss = Math.max(...logged.flatMap(r => r.curves.means.map(m => m[1])));
  const looks = r => r.curves.looks.length ? "; diamonds: held-out ones, by the averaged weights" : "";
  for (const at of logged.length ? [1, 2] : []) list.push(chart({
    title: `${["Loss", "Right"][at - 1]} while training`, head: ["run", "step", ["loss", "right"][at - 1]],
    note: at === 1 ? "of answers and halting" : "training puzzles, when they halt" + logged.map(looks).sort().at(-1),
    x: {low: 0, high: last, name: "optimizer step", text: number},
    y: at === 1 ? {low: 0, high: above(loss), name: "loss", text: number} : share,
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
    const early = bad.reduce((a, b) => a + b, 0);
    const steps = good.reduce((sum, _, s) => sum + Math.min(s + 1, S) * (good[s] + bad[s]), 0) / n;
    const never = percent((good[S] + bad[S]) / n, 0);
    all.push([percent((n - early) / n), "right if it stopped when first sure" +
              (r.counts.early && !f.pass_at ? `; ${percent(r.counts.early / n)} come right only later` : "")],
             [steps.toFixed(1), `steps of ${S} until it is first sure, on average; never: ${never}`],
             [percent(r.counts.sure / n), `still sure after step ${S}, but wrong`]);
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
const key = (picture, text) => el("span", {class: "key"}, picture, text);
const keyOf = (r, k) => el("span", {class: `key s${k % 4}`}, el("svg", {viewBox: "-14 -5 28 10", "aria-hidden": "true"},
                           el("path", {class: "series", d: "M-14 0H14"}), mark(k, 0, 0)), r.name);
