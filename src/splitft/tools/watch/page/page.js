// The page: puts the states of runs into its elements, whenever there is news and somebody looks.
import {follow} from "./feed.js";
import * as pictures from "./pictures.js";
import {bytes, change, clock, count, element, few, figure, known, percent, say, seconds, several} from "./words.js";

const $ = id => document.getElementById(id);
const KINDS = ["activations", "gradients", "adapter", "labels", "optimizer", "evaluation", "held_out", "control"];
const KIND_COLOURS = {activations: "c0", gradients: "c1", adapter: "c2", labels: "c3", optimizer: "c4", evaluation: "c5", held_out: "c6", control: "c11"};
const OVERS = {round: "rounds", bytes: "data sent", seconds: "time", virtual: "simulated time"};
const STATES = {
  running: ["under way", "good"], preparing: ["preparing: the model is loaded and its split proven", "warn"],
  waiting: ["waiting for clients", "warn"], silent: ["silent", "warn"], lost: ["gone without a word", "bad"],
  finished: ["finished", ""], stopped: ["stopped", "warn"], diverged: ["diverged", "bad"], unknown: ["nothing known yet", "warn"],
};
const TONES = {
  training: "c0", evaluating: "c2", "done with its steps": "c5", ready: "c5", "not in this round": "server", invited: "moved",
  "not ready": "moved", away: "alarm", dropped: "alarm", expelled: "c3",
};
const URGENT = ["expelled", "away", "dropped", "not ready", "invited"];
const SORTS = {attention: "what needs attention", name: "name", cut: "cut", loss: "loss", rate: "slowest"};

const FIRST = innerWidth < 640 ? 10 : 30; // clients in the table before somebody asks for more

let runs = new Map(), skew = 0, shown = null, chosenRound = null, filter = "", limit = FIRST, drawn = false;
const hits = {};

// Choosing a run.

function tabs() {
  const names = [...runs.keys()], holder = $("tabs"), several_ = names.length > 1;
  if (!shown || (shown !== "" && !runs.has(shown))) shown = several_ ? "" : names[0];
  holder.hidden = !several_;
  const wanted = several_ ? ["", ...names] : [];
  if (holder.children.length !== wanted.length || wanted.some((name, i) => holder.children[i].dataset.run !== name)) {
    holder.replaceChildren(...wanted.map(name => {
      const tab = element("button", {type: "button", role: "tab", text: name || "All runs", "aria-controls": name ? "one" : "all"});
      tab.dataset.run = name;
      if (!name) tab.id = "tab-all";
      tab.addEventListener("click", () => choose(name));
      return tab;
    }));
  }
  for (const tab of holder.children) {
    const on = tab.dataset.run === shown;
    tab.setAttribute("aria-selected", on);
    tab.tabIndex = on ? 0 : -1;
  }
}

function choose(name) {
  shown = name; chosenRound = null; filter = ""; limit = FIRST;
  $("find").value = "";
  draw();
}

$("tabs").addEventListener("keydown", event => {
  const all = [...$("tabs").children], at = all.indexOf(document.activeElement);
  const to = {ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1}[event.key];
  if (to === undefined) return;
  event.preventDefault();
  const next = all[(to + all.length) % all.length];
  next.focus();
  next.click();
});

// Parts of a run.

const nameOf = (run, place) => run.names[place] ?? "?";

function cutsByRound(run) {
  let last = [];
  return (run.rounds || []).map(entry => {
    last = entry.cuts || last;
    return {round: entry.round, cuts: last};
  });
}

function evaluations(run) {
  // The evaluations of a run, each with its level: [{round, change, interval, perplexity, …}].
  const found = (run.rounds || []).filter(entry => entry.evaluated), first = run.levels?.[0]?.[0];
  let sent = 0, time = 0, virtual = 0, at = 0;
  const cost = new Map();
  for (const entry of run.rounds || []) {
    sent += entry.bytes || 0; time += entry.seconds || 0; virtual += entry.virtual || 0;
    cost.set(entry.round, {round: entry.round, bytes: sent / 1e6, seconds: time, virtual});
  }
  return found.map((entry, i) => {
    const [perplexity, width] = run.levels?.[i] || [null, null];
    let moved = entry.change;
    if (!known(moved)) moved = i === 0 ? 0 : known(perplexity) && first ? perplexity / first - 1 : null;
    at += 1;
    return {...entry, change: moved, perplexity, width, over: cost.get(entry.round)};
  });
}

function lineOf(run, over, colour) {
  const all = evaluations(run), percent_ = value => known(value) ? 100 * value : null;
  const edge = (entry, sign) => known(entry.change) ? 100 * (entry.change + sign * (entry.interval || 0)) : null;
  return {
    name: run.name, colour, x: all.map(entry => entry.over[over]), y: all.map(entry => percent_(entry.change)),
    low: all.map(entry => edge(entry, -1)), high: all.map(entry => edge(entry, 1)),
  };
}

function overText(over) {
  return {round: "round", bytes: "MB sent for training", seconds: "seconds of this machine", virtual: "seconds by the virtual clock"}[over];
}

function start(run) {
  return run.from_adapter ? "the adapter that it started from" : "the base model";
}

// Drawing one run.

function tile(label, value, more) {
  return element("div", {}, element("dt", {text: label}), element("dd", {text: value}, ...(more ? [element("small", {text: more})] : [])));
}

function drawTop(run) {
  const status = run.status, [told, tone] = STATES[status.state] || [status.state, ""];
  say("name", run.name);
  const phase = status.state === "running" ? status.phase || told : told;
  const ago = known(status.at) ? Math.max(0, Date.now() / 1000 + skew - status.at) : null;
  say("state", status.state === "silent" && ago ? `silent for ${seconds(ago)}` : phase);
  $("state").dataset.tone = tone;
  say("where", run.path);
  const bad = run.problem || (["lost", "diverged"].includes(status.state) ? status.reason || told : "");
  $("problem").hidden = !bad;
  say("problem", bad ? bad[0].toUpperCase() + bad.slice(1) : "");
  // Rounds done, and what is measured.
  const last = run.rounds?.at(-1)?.round, planned = run.rounds_planned, inRound = status.state === "running" && status.phase === "training";
  const part = inRound && run.steps && status.step ? status.step / run.steps : 0;
  const doneRounds = (known(last) ? last : 0) + (inRound ? part * 0.999 : 0), bar = $("bar");
  bar.setAttribute("aria-valuemax", planned || 1);
  bar.setAttribute("aria-valuenow", known(last) ? last : 0);
  bar.firstElementChild.style.width = `${planned ? Math.min(100, 100 * doneRounds / planned) : 0}%`;
  const seen = evaluations(run), now = seen.at(-1), first = seen[0];
  const totals = ["up", "down"].map(way => Object.values(run.bytes?.[way] || {}).reduce((a, b) => a + b, 0));
  const rows = Object.values(run.clients || {}), away = rows.filter(row => URGENT.includes(row.state)).length;
  const soFar = known(status.started) && known(status.at) ? seconds(status.at - status.started) : "";
  const tiles = [
    tile("Round", planned ? `${count(status.round ?? last ?? null)} of ${count(planned)}` : "–", inRound && status.step ? `step ${status.step} of ${run.steps}` : ""),
    tile("Perplexity, held out", now ? figure(now.perplexity, 4) : "–", now && now !== first ? `${change(now)} against ${figure(first.perplexity, 4)} before` : "no round is over yet"),
    tile("Speed", known(status.tokens_per_second) ? `${count(status.tokens_per_second)} tok/s` : "–", known(status.tokens_per_second) ? "of all clients, last round" : ""),
    status.state === "running" ? tile("Time left", seconds(status.seconds_left), soFar && `${soFar} so far`) : tile("Time", soFar || "–", ""),
    tile("Sent", bytes(totals[0] + totals[1]), `↑ ${bytes(totals[0])}  ↓ ${bytes(totals[1])}`),
    tile("Clients", count(run.names.length), away ? `${count(away)} not there` : status.state === "running" ? "all there" : ""),
  ];
  const privacy = Object.entries(run.privacy || {});
  if (privacy.length) tiles.push(tile("Privacy", privacy.map(([key, value]) => `${key} ${typeof value === "number" ? figure(value) : value}`).join(", "), ""));
  replaced($("tiles"), tiles);
}

function replaced(holder, children) {
  // Replaces children where they are others: selections and screen readers stay where they are.
  const made = element("div", {}, ...children);
  if (holder.innerText === undefined || made.textContent !== holder.textContent || holder.childElementCount !== made.childElementCount) holder.replaceChildren(...made.childNodes);
}

function overs(select, all) {
  const there = Object.keys(OVERS).filter(over => over !== "virtual" || all.some(run => (run.rounds || []).some(entry => entry.virtual)));
  if (select.options.length !== there.length) {
    const value = select.value || "round";
    select.replaceChildren(...there.map(over => element("option", {value: over, text: OVERS[over]})));
    select.value = there.includes(value) ? value : "round";
  }
  return select.value || "round";
}

function drawCurve(run) {
  const over = overs($("over"), [run]), all = evaluations(run), holder = $("curve");
  say("curve-note", `Zero is ${start(run)}, before training. The band is the 95 % interval of the change.`);
  if (all.length < 1) {
    pictures.dropCurves(holder);
    holder.hidden = true;
    say("curve-said", "No evaluation is over yet.");
    return;
  }
  holder.hidden = false;
  const tell = place => {
    const entry = all[place] ?? all.at(-1), loss = known(entry.loss) ? `, training loss ${figure(entry.loss, 4)}` : "";
    const moved = entry.round && change(entry) ? `, ${change(entry)}` : "";
    const right = known(entry.accuracy) ? `, ${(100 * entry.accuracy).toFixed(1)} % of next tokens right` : "";
    say("curve-said", `Round ${entry.round}: perplexity ${figure(entry.perplexity, 4)}${moved}${right}${loss}.`);
  };
  hits.tell = tell;
  pictures.drawCurves(holder, [lineOf(run, over, pictures.colour("accent"))], overText(over), pictures.tickText, place => hits.tell(place));
  tell(all.length - 1);
  const now = all.at(-1);
  holder.setAttribute("aria-label", `Curve of ${several(all.length, "evaluation")}. At the last, perplexity ${figure(now.perplexity, 4)}, ${change(now) || "before training"}.`);
}

function drawCutPictures(run) {
  const history = cutsByRound(run), newest = history.at(-1), slider = $("round");
  const live = run.names.map((_, place) => run.clients?.[place]?.cut ?? null);
  const at = chosenRound === null ? -1 : history.findIndex(entry => entry.round === chosenRound);
  const now = at < 0 ? live : history[at].cuts;
  // Against the round before; while a round is under way, against the last one that is over.
  const same = newest && newest.cuts.every((cut, place) => cut === live[place]);
  const before = at >= 0 ? history[at - 1]?.cuts : same ? history.at(-2)?.cuts : newest?.cuts;
  const canvas = $("model"), hit = pictures.drawModel(canvas, run.names, now, before, run.blocks, run.tail);
  hits.model = hit;
  canvas.hidden = $("model-legend").hidden = !hit;
  const moved = run.names.map((_, place) => place).filter(place => known(before?.[place]) && known(now[place]) && before[place] !== now[place]);
  const told = moved.map(place => `${nameOf(run, place)} ${before[place]} → ${now[place]}`);
  say("model-when", !hit ? "" : at < 0 ? "now" : `round ${history[at].round}`);
  const said = !hit ? (run.blocks ? "No cuts: every client has the whole model." : "Not known before the first round.")
    : (told.length ? `Moved against the round before: ${few(told, 5)}.` : "No cut moved against the round before.")
      + (run.names.length > 24 ? " Each line is a client; they are sorted by their cut." : "");
  hits.modelSaid = said;
  say("model-said", said);
  canvas.setAttribute("aria-label", hit ? `${several(run.names.length, "client")}, ${run.blocks} blocks. ${said}` : said);
  $("replay").hidden = history.length < 2 || !hit;
  slider.max = Math.max(0, history.length - 1);
  const place = at < 0 ? history.length - 1 : at;
  if (document.activeElement !== slider || at < 0) slider.value = place;
  say("round-said", history[place] ? `${history[place].round}` : "");
  slider.setAttribute("aria-valuetext", history[place] ? `round ${history[place].round}` : "");
  $("newest").disabled = at < 0;
  // Over time.
  const over = $("cuts"), known_ = history.length && hit;
  hits.cuts = known_ ? pictures.drawCuts(over, run.names, history, chosenRound ?? newest.round) : null;
  over.hidden = !hits.cuts;
  const lines = run.names.length <= 12 && hits.cuts;
  replaced($("cuts-legend"), lines ? run.names.map((name, i) => {
    const key = element("i", {class: "key"});
    key.style.background = pictures.colourOf(i);
    return element("li", {}, key, name);
  }) : []);
  for (const [i, item] of [...$("cuts-legend").children].entries()) item.firstChild.style.background = pictures.colourOf(i);
  const span = hits.cuts && (hits.cuts.low === hits.cuts.high ? `All cuts are at ${hits.cuts.low}.` : `Cuts from ${hits.cuts.low} to ${hits.cuts.high} blocks.`);
  say("cuts-said", hits.cuts ? `${span} ${lines ? "" : "The stronger the colour, the more clients."}` : "No round is over yet.");
  over.setAttribute("aria-label", hits.cuts ? `Cuts over ${several(history.length, "round")}. ${span}` : "");
}

function drawWaits(run) {
  const names = run.waiting_for.map(place => {
    const row = run.clients[place] || {};
    return nameOf(run, place) + (URGENT.includes(row.state) ? ` (${row.state}${row.reason ? `: ${row.reason}` : ""})` : "");
  });
  const status = run.status, canvas = $("waits"), rows = new Map(), times = run.times;
  const waits = Object.entries(run.waits || {}).map(([place, times_]) => `${nameOf(run, place)} (${times_})`);
  let said = "", legend = [], most = 1;
  say("waits-now", names.length ? `Waiting now for ${few(names, 6)}.` : status.state === "running" ? "Nobody is waited for now." : "");
  if (times) {
    for (const [place, parts] of Object.entries(times.parts)) {
      const busy = parts.slice(0, 4).reduce((a, b) => a + b, 0);
      rows.set(Number(place), {parts: parts.map((value, i) => [value, pictures.PARTS[i][1]]), text: seconds(busy), rank: busy});
      most = Math.max(most === 1 ? 0 : most, parts.reduce((a, b) => a + b, 0));
    }
    legend = pictures.PARTS;
    const last = known(times.waited_for) && run.names.length > 1 ? ` ${nameOf(run, times.waited_for)} was last.` : "";
    said = `Round ${times.round} took ${seconds(times.seconds)} by the virtual clock.${last}`;
    if (times.queued.length) said += ` Longest in line: ${few(times.queued.slice(0, 3).map(([a, b, s]) => `${nameOf(run, a)} ${seconds(s)} behind ${nameOf(run, b)}`), 3)}.`;
    if (waits.length) said += ` Rounds that waited for: ${few(waits, 5)}.`;
  } else if (known(status.round) && run.steps) {
    most = run.steps;
    for (const [place, row] of Object.entries(run.clients)) {
      if (!known(row.step)) continue;
      const done = row.round === status.round ? row.step + 1 : 0;
      rows.set(Number(place), {parts: [[done, URGENT.includes(row.state) ? "alarm" : "c0"], [run.steps - done, "soft"]], text: `${done}/${run.steps}`, rank: done});
    }
    legend = [["steps done in this round", "c0"], ["of a client that is not there", "alarm"], ["left", "soft"]];
    said = rows.size ? `Optimizer steps of round ${status.round}.` : "";
  }
  hits.waits = pictures.drawRows(canvas, run.names, rows, null, most);
  canvas.hidden = !hits.waits;
  hits.waitsSaid = hits.waits ? said : said || "No step is taken yet.";
  say("waits-said", hits.waitsSaid);
  canvas.setAttribute("aria-label", hits.waitsSaid);
  keys($("waits-legend"), hits.waits ? legend : []);
}

function keys(holder, pairs) {
  replaced(holder, pairs.map(([text]) => element("li", {}, element("i", {class: "key"}), text)));
  [...holder.children].forEach((item, i) => { item.firstChild.style.background = pictures.colour(pairs[i][1]); });
}

// Clients.

const COLUMNS = [
  ["Client", (run, place) => nameOf(run, place), "text"],
  ["State", (run, place, row) => row.state || "", "text state"],
  ["Device", (run, place) => run.devices?.[place] || "", "text"],
  ["Cut", (run, place, row) => known(row.cut) ? String(row.cut) : ""],
  ["Loss", (run, place, row) => known(row.loss) ? figure(row.loss, 4) : ""],
  ["Rate", (run, place, row) => known(row.tokens_per_second) ? `${count(row.tokens_per_second)} tok/s` : known(row.steps_per_second) ? `${figure(row.steps_per_second, 2)} steps/s` : ""],
  ["Sent ↑", (run, place, row) => known(row.up) ? bytes(row.up) : ""],
  ["Got ↓", (run, place, row) => known(row.down) ? bytes(row.down) : ""],
  ["Perplexity", (run, place, row) => known(row.perplexity) ? figure(row.perplexity, 4) : ""],
];

function order(run, places) {
  const rows = run.clients, by = $("sort").value || "attention";
  const rank = place => {
    const row = rows[place] || {}, urgent = URGENT.indexOf(row.state);
    if (by === "attention") return urgent >= 0 ? urgent - 100 : run.waiting_for.includes(place) ? -50 : 0;
    if (by === "cut") return -(row.cut ?? -1);
    if (by === "loss") return -(row.loss ?? -1);
    if (by === "rate") return row.tokens_per_second ?? row.steps_per_second ?? Infinity;
    return 0;
  };
  const compare = by === "name" ? (a, b) => nameOf(run, a).localeCompare(nameOf(run, b), "en", {numeric: true}) : (a, b) => rank(a) - rank(b) || a - b;
  return places.sort(compare);
}

function drawClients(run) {
  const every = run.names.map((_, place) => place), find = $("find").value.trim().toLowerCase();
  const stateOf = place => run.clients[place]?.state || "";
  // How many in which state, where that says anything.
  const states = new Map();
  for (const place of every) states.set(stateOf(place), (states.get(stateOf(place)) || 0) + 1);
  if (filter && !states.has(filter)) filter = "";
  const chips = states.size > 1 || every.length > 24 ? [...states.entries()].filter(([state]) => state).sort((a, b) => b[1] - a[1]) : [];
  const holder = $("chips");
  if (holder.children.length !== chips.length) holder.replaceChildren(...chips.map(() => {
    const chip = element("button", {type: "button"});
    chip.addEventListener("click", () => { filter = filter === chip.dataset.state ? "" : chip.dataset.state; limit = FIRST; draw(); });
    return chip;
  }));
  chips.forEach(([state, number], i) => {
    const chip = holder.children[i];
    chip.dataset.state = state;
    say(chip, `${count(number)} ${state}`);
    chip.setAttribute("aria-pressed", filter === state);
  });
  const crowd = $("crowd"), many = every.length > 24 && states.size > 0 && !states.has("");
  crowd.hidden = $("crowd-said").hidden = !many;
  if (many) {
    hits.crowd = pictures.drawCrowd(crowd, every.map(stateOf), state => TONES[state] || "server");
    hits.crowdSaid = "One square a client; point at one for its name.";
    say("crowd-said", hits.crowdSaid);
    crowd.setAttribute("aria-label", `${several(every.length, "client")}: ${chips.map(([state, number]) => `${number} ${state}`).join(", ")}`);
  }
  $("find-label").hidden = every.length < 8;
  // The table.
  const columns = COLUMNS.filter(([, get]) => every.some(place => get(run, place, run.clients[place] || {})));
  const head = $("clients").tHead, body = $("clients").tBodies[0];
  if (head.textContent !== columns.map(([title]) => title).join("")) {
    head.replaceChildren(element("tr", {}, ...columns.map(([title, , kind]) => element("th", {scope: "col", text: title, class: kind?.split(" ")[0]}))));
    body.replaceChildren();
  }
  const wanted = order(run, every.filter(place => (!filter || stateOf(place) === filter) && (!find || nameOf(run, place).toLowerCase().includes(find))));
  const cut = wanted.slice(0, limit);
  while (body.rows.length > cut.length) body.lastElementChild.remove();
  while (body.rows.length < cut.length) body.append(element("tr", {}, ...columns.map(([title, , kind], i) =>
    element(i ? "td" : "th", {class: `${kind || "num"}`, scope: i ? null : "row", "data-label": i > 1 ? title : null}))));
  cut.forEach((place, at) => {
    const cells = body.rows[at].cells, row = run.clients[place] || {};
    columns.forEach(([title, get], i) => {
      const text = get(run, place, row), cell = cells[i];
      const small = title === "State" ? row.reason || "" : title === "Perplexity" && known(row.change) ? percent(row.change) : "";
      if (cell.dataset.is === `${text}|${small}`) return;
      cell.dataset.is = `${text}|${small}`;
      cell.toggleAttribute("data-none", !text);
      const inside = title === "State" && text ? element("span", {class: "pill", text}) : text;
      if (title === "State" && text) inside.dataset.tone = ["invited", "not ready"].includes(text) ? "warn" : URGENT.includes(text) ? "bad" : "";
      cell.replaceChildren(inside, ...(small ? [element("small", {text: small})] : []));
    });
  });
  $("more-line").hidden = wanted.length <= limit && !(find && !wanted.length);
  say("more-said", wanted.length ? `${count(cut.length)} of ${count(wanted.length)} clients.` : "No client is called so.");
  $("more").hidden = !wanted.length;
}

// Bytes, decisions, notices, the job.

function drawBytes(run) {
  const parts = [], most = Math.max(1, ...["up", "down"].map(way => Object.values(run.bytes[way] || {}).reduce((a, b) => a + b, 0)));
  const there = [...KINDS, ...Object.keys({...run.bytes.up, ...run.bytes.down}).filter(kind => !KINDS.includes(kind))].filter(kind => run.bytes.up?.[kind] || run.bytes.down?.[kind]);
  if (!there.length) { replaced($("bytes"), [element("p", {class: "said", text: "Nothing is sent yet."})]); return; }
  for (const [way, title] of [["up", "↑ to the server"], ["down", "↓ to the clients"]]) {
    const total = Object.values(run.bytes[way] || {}).reduce((a, b) => a + b, 0);
    const stack = element("div", {class: "stack", role: "img", "aria-label": `${title}: ${bytes(total)}`});
    for (const kind of there) {
      const piece = element("i");
      piece.style.width = `${100 * (run.bytes[way]?.[kind] || 0) / most}%`;
      piece.style.background = pictures.colour(KIND_COLOURS[kind] || "c7");
      stack.append(piece);
    }
    parts.push(element("h3", {text: `${title}: ${bytes(total)}`}), stack);
  }
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...["Kind", "↑", "↓"].map(text => element("th", {scope: "col", text})))), element("tbody", {}, ...there.map(kind => {
    const key = element("i", {class: "key"});
    key.style.background = pictures.colour(KIND_COLOURS[kind] || "c7");
    return element("tr", {}, element("th", {scope: "row"}, key, kind.replace("_", " ")), ...["up", "down"].map(way => element("td", {class: "num", text: run.bytes[way]?.[kind] ? bytes(run.bytes[way][kind]) : "–"})));
  })));
  $("bytes").replaceChildren(...parts, table);
}

function drawLists(run) {
  const decisions = [...(run.decisions || [])].reverse().map(made => {
    const heading = `Round ${made.round}: ${made.moved ? `${several(made.moved, "cut")} moved` : "no cut moved"}${made.stayed ? `, ${count(made.stayed)} stayed` : ""} (policy ${made.policy})`;
    const items = made.clients.map(entry => {
      const to = entry.from === entry.to ? `stays at ${entry.to}` : `${entry.from ?? "?"} → ${entry.to}`;
      return element("li", {text: `${nameOf(run, entry.client)}: ${to}${entry.why ? ` – ${entry.why}` : ""}`});
    });
    const untold = made.moved - made.clients.filter(entry => entry.from !== entry.to).length;
    if (untold > 0) items.push(element("li", {text: `and ${several(untold, "more move")}: decisions.jsonl has all of them`}));
    return element("article", {}, element("h3", {text: heading}), element("ul", {}, ...items));
  });
  replaced($("decisions"), decisions.length ? decisions : [element("p", {class: "said", text: "None: the cuts of this run are fixed, or no round has begun."})]);
  const lines = [...(run.log || [])].reverse().map(line => element("article", {}, element("p", {}, ...(known(line.at) ? [element("time", {text: clock(line.at)})] : []), line.text)));
  replaced($("log"), lines.length ? lines : [element("p", {class: "said", text: "None so far."})]);
  const pairs = (run.job || []).flatMap(([key, value]) => [element("dt", {text: key}), element("dd", {text: value})]);
  replaced($("job"), pairs.length ? pairs : [element("dd", {class: "said", text: "Not written before the rounds begin."})]);
}

// Drawing all runs.

function drawAll() {
  const all = [...runs.values()].filter(run => run.status), over = overs($("all-over"), all), holder = $("all-curve");
  const lines = all.map((run, i) => lineOf(run, over, pictures.colourOf(i))).filter(line => line.x.length);
  holder.hidden = !lines.length;
  if (lines.length) pictures.drawCurves(holder, lines, overText(over), pictures.tickText, null);
  else pictures.dropCurves(holder);
  holder.setAttribute("aria-label", `Curves of ${several(lines.length, "run")}`);
  keys($("all-legend"), all.map((run, i) => [run.name, `c${i % 12}`]));
  const titles = ["Run", "State", "Round", "Perplexity", "Change", "Sent", "Clients", "Method"];
  if (!$("all-table").tHead.rows.length) $("all-table").tHead.append(element("tr", {}, ...titles.map((text, i) => element("th", {scope: "col", text, class: i < 2 ? "text" : null}))));
  $("all-table").tBodies[0].replaceChildren(...all.map(run => {
    const now = evaluations(run).at(-1), [told, tone] = STATES[run.status.state] || ["", ""], job = Object.fromEntries(run.job);
    const sent = Object.values(run.bytes).flatMap(Object.values).reduce((a, b) => a + b, 0);
    const link = element("button", {type: "button", text: run.name}), pill = element("span", {class: "pill", text: run.status.phase && run.status.state === "running" ? run.status.phase : told.split(":")[0]});
    link.addEventListener("click", () => choose(run.name));
    pill.dataset.tone = tone;
    const texts = [
      `${count(run.rounds.at(-1)?.round ?? run.status.round ?? null)}/${count(run.rounds_planned)}`, now ? figure(now.perplexity, 4) : "–",
      now && now.round ? change(now) : "–", bytes(sent), count(run.names.length), job.method ? `${job.method}${job["cut policy"] ? `, policy ${job["cut policy"]}` : ""}` : "–",
    ];
    return element("tr", {}, element("th", {scope: "row"}, link), element("td", {class: "text"}, pill), ...texts.map(text => element("td", {class: "num", text})));
  }));
}

function draw() {
  if (!runs.size) return;
  tabs();
  const one = runs.get(shown);
  $("empty").hidden = true;
  $("all").hidden = shown !== "";
  $("one").hidden = shown === "";
  $("one").setAttribute("aria-label", shown);
  document.title = one ? `${one.name} – SplitFT live` : "SplitFT live";
  if (shown === "") drawAll();
  else if (one.status) for (const part of [drawTop, drawCurve, drawCutPictures, drawWaits, drawClients, drawBytes, drawLists]) part(one);
  else { say("name", one.name); say("problem", one.problem || ""); $("problem").hidden = !one.problem; }
  document.body.dataset.drawn = String(Number(document.body.dataset.drawn || 0) + 1);
}

function later() {
  // Once for all news of a moment, and not at all while the page is not seen.
  if (drawn) return;
  drawn = true;
  requestAnimationFrame(() => { drawn = false; draw(); });
}

// What a person does.

function pointing(id, hit, said, tell) {
  const canvas = $(id), line = `${id}-said`;
  canvas.addEventListener("pointermove", event => {
    const run = runs.get(shown), found = hits[hit]?.at(event.offsetX, event.offsetY);
    if (run) say(line, known(found) && found !== null ? tell(run, found) : hits[said]);
  });
  canvas.addEventListener("pointerleave", () => say(line, hits[said] || ""));
}
pointing("model", "model", "modelSaid", (run, place) => `${nameOf(run, place)}: ${several(run.clients[place]?.cut ?? 0, "block")} of ${run.blocks} on the client${run.devices?.[place] ? `, ${run.devices[place]}` : ""}.`);
pointing("waits", "waits", "waitsSaid", (run, place) => {
  const parts = run.times?.parts[place];
  return `${nameOf(run, place)}: ${parts ? parts.map((value, i) => value ? `${pictures.PARTS[i][0]} ${seconds(value)}` : "").filter(Boolean).join(", ") : `${(run.clients[place]?.step ?? -1) + 1} steps`}.`;
});
pointing("crowd", "crowd", "crowdSaid", (run, place) => {
  const row = run.clients[place] || {};
  return `${nameOf(run, place)}: ${[row.state, row.reason, known(row.cut) ? `cut ${row.cut}` : "", known(row.loss) ? `loss ${figure(row.loss, 4)}` : ""].filter(Boolean).join(", ")}.`;
});
$("cuts").addEventListener("click", event => {
  const round = hits.cuts?.at(event.offsetX);
  if (known(round)) { chosenRound = round; later(); }
});
$("round").addEventListener("input", () => {
  const history = cutsByRound(runs.get(shown)), place = Number($("round").value);
  chosenRound = place === history.length - 1 ? null : history[place].round;
  later();
});
$("newest").addEventListener("click", () => { chosenRound = null; later(); });
$("more").addEventListener("click", () => { limit += 200; later(); });
$("find").addEventListener("input", () => { limit = FIRST; later(); });
for (const id of ["over", "all-over", "sort"]) $(id).addEventListener("change", later);
$("sort").replaceChildren(...Object.entries(SORTS).map(([value, text]) => element("option", {value, text})));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { pictures.refreshColours(); later(); });
let width = innerWidth;
addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; later(); } });

pictures.refreshColours();
follow((found, now) => { runs = found; skew = now - Date.now() / 1000; later(); }, (state, text) => {
  $("link").dataset.state = state;
  say("link", text);
});
