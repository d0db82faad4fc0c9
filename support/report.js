// ---- A group of runs on the same puzzles ------------------------------------------------------------------------

/** Show the puzzles and runs of group k. */
function showGroup(k) {
  g = groups[k];
  
  document.title = $("title").textContent = `TinyTRM on ${nameOf(g)}`;
  $("about").textContent = "A small network that thinks in steps: after each it has an answer, and says how sure it " +
    `is that the answer is right. ${g.runs.length > 1 ? `${g.runs.length} runs, side by side.` : ""}`;
  $("figures").replaceChildren(...g.runs.map(tiles));
  $("sample").textContent = sampleOf(g);
  const bar = kind => el("svg", {viewBox: "0 0 10 10", "aria-hidden": "true", class: "cell-key"},
                         el("rect", {class: `bar-${kind}`, x: 2, y: .5, width: 6, height: 9}));
  $("legend").replaceChildren(...meanings(g).map(([o, text]) => key(sample(g, o), text)));
  $("truth").replaceChildren(...g.runs[0].known ? ["Bars: ", key(bar("right"), "right"), key(bar("wrong"), "wrong"),
    "The height is what the model believes, the colour the truth, which the model cannot see."] : []);
  $("names").replaceChildren(...g.runs.length > 1 ? g.runs.map(keyOf) : []);
  $("charts").replaceChildren(...charts(g));
  const pairs = r => r.facts.flatMap(([what, much]) => [el("dt", {}, what), el("dd", {}, much)]);
  $("facts").replaceChildren(...g.runs.map(r => el("div", {class: "panel"}, el("h3", {}, r.name),
                                                   el("dl", {}, ...pairs(r)))));
  $("step").max = Math.max(...g.runs.map(r => r.steps));
  $("filters").replaceChildren($("filters").firstElementChild, ...FILTERS.map(([mark, text, meaning]) => {
    const count = choose(mark).length, box = el("input", {type: "radio", name: "filter", value: mark});
    box.disabled = !count;
    box.onchange = () => { stop(); filter(mark, shown()); };
    return el("label", {title: meaning}, box, `${text} (${count})`);
  }));
  $("find").placeholder = `find by number${g.puzzles.some(p => p.name) ? " or name" : ""}`;
  $("find").setAttribute("aria-label", `puzzle: ${$("find").placeholder}`);
  step = 1;
  const slowest = g.runs[0].thoughts.map(t => t.m.includes("right") ? rightFrom(t) : -1);
  filter("all", slowest.indexOf(Math.max(...slowest)));  // first, the one at which there is most to see
}
/** Which puzzles can be looked at. */
function sampleOf({runs, puzzles, kind}) {
  const some = runs[0], all = puzzles.length === some.total, of = mark => runs.some(r => r.counts[mark]);
  const odd = [["wrong", "wrong"], ["early", "sure too early"], ["slow", "slow"]].filter(([mark]) => of(mark));
  const chosen = odd.map(([, text]) => text).join(", ").replace(/, (?=[^,]*$)/, " and ");
  return `${whole(puzzles.length)} of ${whole(some.total)} puzzles can be looked at here` +
    (all || !odd.length ? "." : `, chosen so that ${chosen} ones are among them.`) +
    (some.thought < some.total ?
      ` The charts and figures of how sure it is come from ${whole(some.thought)} of all.` : "") +
    (kind === "arc" ? " The list judges the vote; the steps are those of the plain copy." : "");
}

// ---- The browser of puzzles -------------------------------------------------------------------------------------

const FILTERS = [
  ["all", "all", ""], ["right", "✓ right", "right at the end"], ["wrong", "✗ wrong", "wrong at the end"],
  ["sure", "! sure but wrong", "wrong at the end, and sure of it (q > 0)"],
  ["early", "sure too early", "right at the end, but wrong when it was first sure, and would have stopped"],
  ["slow", "slow", "right at the end, but after more than twice the steps that half of the right ones need"]];
let g, list, at, step, timer;  // the group, those of its puzzles that pass the filter, which of them is shown
const has = (i, mark) => g.runs.map(r => r.thoughts[i].m.includes(mark));
/** Puzzles with this mark: right in all of the runs, the others in any. */
const choose = mark => g.puzzles.map((_, i) => i).filter(i => mark === "all" ||
  (mark === "right" ? has(i, mark).every(Boolean) : has(i, mark).some(Boolean)));
const shown = () => list[at];
const titleOf = p => p.name ? `${p.n} ${p.name}` : `${p.n}`;
/** How puzzle k ends in a run, in a few words. */
function endOf(r, k) {
  const thought = r.thoughts[k], is = mark => thought.m.includes(mark), s = rightFrom(thought);
  if (is("right")) return g.kind === "arc" || !s ? "right" : `right after ${many(s, "step")}`;
  return is("sure") ? "wrong, but sure" : is("wrong") ? "wrong" : "answer unknown";
}

/** Show what has this mark; puzzle i, if it has, else the first one after it. */
function filter(mark, i) {
  list = choose(mark);
  if (!list.length) return filter("all", i);  // the page has been written anew, and none is left
  at = Math.max(0, list.findIndex(k => k >= i));
  for (const box of $("filters").querySelectorAll("input")) box.checked = box.value === mark;
  const ends = k => g.runs.map(r => endOf(r, k)).join(" | ");
  $("puzzle").replaceChildren(...list.map((k, j) => el("option", {value: j},
                                                       `puzzle ${titleOf(g.puzzles[k])} – ${ends(k)}`)));
  const [, text, meaning] = FILTERS.find(f => f[0] === mark);
  $("meaning").textContent = meaning && `${text.replace(/^[^a-z]+/, "")}: ${meaning}.`;
  show();
}
function goTo(j) { if (j >= 0 && j < list.length) { at = j; show(); } }
function goStep(s) { step = Math.max(0, Math.min(Number($("step").max), s)); show(); }
function stop() {
  clearTimeout(timer); timer = 0;
  $("play").textContent = "▶ Play"; $("play").setAttribute("aria-pressed", "false");
}
function play() {
  if (timer) return stop();
  if (step >= Number($("step").max)) goStep(0);
  $("play").textContent = "❚❚ Pause"; $("play").setAttribute("aria-pressed", "true");
  tick();
}
/** The next step, soon where nothing moves any more. */
function tick() {
  timer = setTimeout(() => {
    goStep(step + 1);
    if (step >= Number($("step").max)) stop(); else tick();
  }, step < lastChange(shown()) ? 800 : 150);
}
/** The last step that changes an answer to puzzle k, or is the first to be sure. */
const lastChange = k => Math.max(...g.runs.map(r => Math.max(sureFrom(r.thoughts[k]), 1 +
  r.thoughts[k].a.findLastIndex(text => text))));

/** What is to be said of a run at this step: right or wrong; what changed, and q. */
function state(r, thought, o) {
  if (!step) return ["not thought about yet", ""];
  const s = Math.min(step, r.steps), q = thought.q[s - 1], sum = f => o.a.filter((_, i) => f(o, i)).length;
  const verdict = {undefined: "? nobody knows the answer", 1: "✓ right", 2: "✓ right, by another path than the " +
                   "labelled one", 0: `✗ ${many(sum(isWrong), "cell")} wrong`}[thought.s[s - 1]];
  const belief = q === null ? "q is no number" :
    `${percent(sigmoid(q), 0)} sure (q = ${q.toFixed(2)}): ${q > 0 ? "would stop" : "would go on"}`;
  const changed = o.p ? sum(hasChanged) : 0;
  const what = !o.p ? "first answer" : changed ? `${many(changed, "cell")} changed` : "nothing changed";
  return [verdict, `${what}; ${belief}`];
}

/** The belief after each step, as bars that can be clicked, above the marks of right and wrong. */
function strip(r, thought) {
  const S = r.steps, w = 330 / (S + 1), few = w > 9, halt = sureFrom(thought), Y = share => 120 - 100 * share;
  const svg = el("svg", {viewBox: "0 0 378 140", class: "strip", "aria-hidden": "true"});
  for (const share of [0, .5, 1])
    svg.append(el("path", {class: share === .5 ? "ideal" : "grid", d: `M44 ${Y(share)}H378`}),
               el("text", {x: 40, y: Y(share) + 4, class: "pale end"}, `${100 * share} %`));
  for (let s = 0; s <= S; s++) {
    const x = 46 + s * w, share = s ? sigmoid(thought.q[s - 1] ?? -99) : 0;
    const kind = thought.s[s - 1] > 0 ? "right" : "wrong", small = share < .1 ? " small" : "";
    if (s) svg.append(el("rect", {class: thought.s ? `bar-${kind}${small}` : "bar-right", x: x + w * .14, y: Y(share),
                                  width: w * .72, height: 100 * share}));
    if (s && few) svg.append(el("text", {x: x + w / 2, y: 135, class: `middle ${kind}`},
                                !thought.s ? "?" : kind === "right" ? "✓" : "✗"));
    if (s === halt && s)
      svg.append(el("text", {x: x + w / 2 + (s > S * .6 ? 5 : -5), y: 13, class: s > S * .6 ? "end" : null},
                    s > S * .6 ? "would stop here ▼" : "▼ would stop here"));
    if (s === Math.min(step, S))
      svg.append(el("rect", {class: "now", x: x + 1, y: 16.5, width: Math.max(2, w - 2), height: 122, rx: 3}));
    const pick = el("rect", {class: "pick", x, y: 0, width: w, height: 140});
    pick.onclick = () => { stop(); goStep(s); };
    svg.append(pick);
  }
  return el("figure", {}, el("figcaption", {}, el("b", {}, "How sure it is after each step"), el("br"),
    el("small", {}, "0–100 %, from its q. Above 50 % (q > 0) it would stop. Tap a bar to go there.")), svg);
}

/** One run's view of the puzzle shown. What there is to say of it is added to `said`. */
function panel(r, said) {
  const p = g.puzzles[shown()], thought = r.thoughts[shown()], over = g.kind === "sudoku" || g.kind === "maze";
  const whole = g.kind === "arc", x = unpack(p.x, g), t = thought.s ? unpack(p.t, g) : null;
  const s = Math.min(step, r.steps);
  const a = s ? answer(thought, s, g) : null;  // another path that is right has no wrong cells
  const o = {x, whole, a, t: thought.s[s - 1] > 1 ? a : t, p: s > 1 ? answer(thought, s - 1, g) : null};
  const [verdict, more] = state(r, thought, o), boards = (...some) => el("div", {class: "boards"}, ...some);
  said.push(`${g.runs.length > 1 ? r.name + ": " : ""}${verdict}; ${more}`);

  const now = [], sizes = whole ? [t || x, ...thought.a.map(a => unpack(a, g))] : [];
  if (!over) now.push(board(g, whole ? "test input" : "question", {x, whole}, true));
  if (over || s) now.push(board(g, s ? `answer after step ${s}` : "the question", o, true, sizes));
  if (t && s) now.push(board(g, over ? "the solution" : "the right answer", {x, a: t, t, whole}, !over));
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
  $("where").textContent = `step ${step} of ${$("step").max}`;
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
  const box = e.target.matches("select, pre, [type=search], [type=radio], [type=checkbox]");
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
addEventListener("hashchange", () => location.reload());  // not fired by what `show` writes there
const wanted = new URLSearchParams(location.hash.slice(1));
showGroup(0);
if (FILTERS.some(([mark]) => mark === wanted.get("show"))) filter(wanted.get("show"), 0);
if (wanted.get("puzzle")) find(wanted.get("puzzle"));
if (wanted.get("step")) goStep(Number(wanted.get("step")) || 0);
if (matchMedia("(max-width: 640px)").matches) $("choose").open = false;  // the board comes first

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
