// The pictures: curves by uPlot, and the model, cuts, waiting and crowds of clients on canvases.
import {known, percent} from "./words.js";

const FONT = "12px system-ui, sans-serif";
let colours = {};

export function refreshColours() {
  const style = getComputedStyle(document.documentElement);
  const names = ["ink", "dim", "line", "soft", "card", "client", "server", "moved", "left", "accent", "alarm", "good", "warn"];
  colours = Object.fromEntries([...names, ...Array.from({length: 12}, (_, i) => `c${i}`)]
    .map(name => [name, style.getPropertyValue(`--${name}`).trim()]));
}

export const colour = name => colours[name];
export const colourOf = place => colours[`c${place % 12}`];

function prepared(canvas, height) {
  // Returns the drawing context of a canvas as wide as its section, cleared, and that width.
  const width = Math.max(120, Math.floor(canvas.parentElement.clientWidth - 2 * parseFloat(getComputedStyle(canvas.parentElement).paddingLeft)));
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  pen.font = FONT;
  pen.textBaseline = "middle";
  return [pen, width];
}

function fitted(pen, text, room) {
  if (pen.measureText(text).width <= room) return text;
  let length = text.length;
  while (length > 1 && pen.measureText(`${text.slice(0, length)}…`).width > room) length -= 1;
  return `${text.slice(0, length)}…`;
}

function nameRoom(pen, names, width) {
  const longest = Math.max(...names.map(name => pen.measureText(name).width));
  return Math.ceil(Math.min(longest, width * 0.3, 180)) + 10;
}

const FEW = 24; // clients up to which each has a row with its name

export function drawModel(canvas, names, cuts, before, blocks, tail) {
  // Rows of clients, or their silhouette where they are many; the input at the left, the output at the right.
  const there = names.map((_, place) => place).filter(place => known(cuts[place]));
  if (!there.length || !blocks) return null;
  const many = there.length > FEW, rowHeight = many ? 0 : Math.max(15, Math.min(26, 280 / there.length));
  const top = 20, height = many ? 240 : rowHeight * there.length;
  const [pen, width] = prepared(canvas, top + height + 2);
  const left = many ? 0 : nameRoom(pen, names, width), right = many ? 0 : 26;
  const cell = (width - left - right) / blocks;
  pen.fillStyle = colours.dim;
  pen.textAlign = "left";
  pen.fillText("block 1", left, 8);
  pen.textAlign = "right";
  pen.fillText(`${blocks}, head`, left + cell * blocks, 8);
  pen.textAlign = "center";
  const way = "→ from text to next token →", ends_ = pen.measureText("block 1").width + pen.measureText(`${blocks}, head`).width;
  if (cell * blocks > pen.measureText(way).width + ends_ + 40) pen.fillText(way, left + cell * blocks / 2, 8);
  if (many) {
    const was = place => known(before?.[place]) ? before[place] : cuts[place];
    const sorted = [...there].sort((a, b) => cuts[a] - cuts[b] || was(a) - was(b)), step = height / sorted.length;
    pen.fillStyle = colours.server;
    pen.fillRect(left, top, cell * blocks, height);
    sorted.forEach((place, row) => {
      const y = top + row * step, old = was(place);
      pen.fillStyle = colours.client;
      pen.fillRect(left, y, cell * cuts[place], step + 0.5);
      if (tail) pen.fillRect(left + cell * (blocks - tail), y, cell * tail, step + 0.5);
      if (old !== cuts[place]) {
        pen.fillStyle = old < cuts[place] ? colours.moved : colours.left;
        pen.fillRect(left + cell * Math.min(old, cuts[place]), y, cell * Math.abs(old - cuts[place]), step + 0.5);
      }
    });
    pen.strokeStyle = colours.card;
    pen.lineWidth = 1;
    for (let block = 1; block < blocks && cell > 5; block += 1) {
      pen.globalAlpha = 0.4;
      pen.beginPath(); pen.moveTo(left + cell * block, top); pen.lineTo(left + cell * block, top + height); pen.stroke();
      pen.globalAlpha = 1;
    }
    return {at: (x, y) => y >= top && y <= top + height ? sorted[Math.min(sorted.length - 1, Math.floor((y - top) / step))] : null};
  }
  const gap = cell > 4 ? 1 : 0, inner = rowHeight - 4;
  there.forEach((place, row) => {
    const y = top + row * rowHeight, old = known(before?.[place]) ? before[place] : cuts[place];
    for (let block = 0; block < blocks; block += 1) {
      const own = block < cuts[place] || block >= blocks - tail;
      pen.fillStyle = own ? colours.client : colours.server;
      if (block >= old && block < cuts[place]) pen.fillStyle = colours.moved;
      if (block < old && block >= cuts[place]) pen.fillStyle = colours.left;
      pen.fillRect(left + cell * block, y + 2, cell - gap, inner);
    }
    pen.fillStyle = colours.ink;
    pen.textAlign = "left";
    pen.fillText(fitted(pen, names[place], left - 8), 0, y + rowHeight / 2);
    pen.textAlign = "right";
    pen.fillText(String(cuts[place]), width, y + rowHeight / 2);
  });
  return {at: (x, y) => there[Math.floor((y - top) / rowHeight)] ?? null};
}

export function drawCuts(canvas, names, rounds, chosen) {
  // Lines of few clients, or the share of many at each cut; rounds from left to right, cuts upwards.
  const last = rounds.filter(entry => entry.cuts.some(known));
  if (last.length < 1) return null;
  const all = last.flatMap(entry => entry.cuts.filter(known));
  const low = Math.min(...all), high = Math.max(...all), lines = names.length <= 12;
  const height = 200, top = 10, bottom = 34, [pen, width] = prepared(canvas, height);
  const left = 34, right = 12, across = (width - left - right) / last.length;
  const steps = high - low + 1, up = (height - top - bottom) / steps;
  const x = place => left + across * place, y = cut => height - bottom - up * (cut - low + 1);
  // The axes.
  const every = Math.max(1, Math.ceil(steps / 8)), each = Math.max(1, Math.ceil(last.length * 34 / (width - left)));
  for (let cut = low; cut <= high; cut += 1) {
    pen.strokeStyle = colours.line;
    pen.lineWidth = 1;
    pen.beginPath(); pen.moveTo(left, y(cut) + up / 2); pen.lineTo(width - right, y(cut) + up / 2);
    if (lines) pen.stroke();
    if ((cut - low) % every) continue;
    pen.fillStyle = colours.dim;
    pen.textAlign = "right";
    pen.fillText(String(cut), left - 7, y(cut) + up / 2);
  }
  pen.textAlign = "center";
  last.forEach((entry, place) => {
    pen.fillStyle = colours.dim;
    if (place % each === 0) pen.fillText(String(entry.round), x(place) + across / 2, height - bottom + 11);
  });
  pen.fillText("round", left + (width - left - right) / 2, height - 6);
  const at = last.findIndex(entry => entry.round === chosen);
  if (at >= 0) {
    pen.fillStyle = colours.soft;
    if (lines) pen.fillRect(x(at), top, across, height - top - bottom);
  }
  if (lines) {
    const names_ = names.map((_, place) => place);
    names_.forEach(place => {
      const offset = (place - (names.length - 1) / 2) * Math.min(3, up * 0.7 / names.length);
      pen.strokeStyle = colourOf(place);
      pen.lineWidth = 2;
      pen.beginPath();
      let open = false;
      last.forEach((entry, column) => {
        const cut = entry.cuts[place];
        if (!known(cut)) { open = false; return; }
        const level = y(cut) + up / 2 + offset;
        if (open) pen.lineTo(x(column), level); else pen.moveTo(x(column), level);
        pen.lineTo(x(column + 1), level);
        open = true;
      });
      pen.stroke();
    });
  } else {
    last.forEach((entry, column) => {
      const counts = new Map();
      for (const cut of entry.cuts) if (known(cut)) counts.set(cut, (counts.get(cut) || 0) + 1);
      const total = [...counts.values()].reduce((a, b) => a + b, 0);
      for (const [cut, number] of counts) {
        const share = number / total, text = String(number);
        pen.fillStyle = colours.client;
        const strength = 0.15 + 0.85 * Math.sqrt(share);
        pen.globalAlpha = strength;
        pen.fillRect(x(column), y(cut), Math.max(1, across - 1), Math.max(1, up - 1));
        pen.globalAlpha = 1;
        if (up > 13 && pen.measureText(text).width < across - 4) {
          pen.fillStyle = strength > 0.8 ? colours.card : colours.ink;
          pen.textAlign = "center";
          pen.fillText(text, x(column) + across / 2, y(cut) + up / 2);
        }
      }
    });
    if (at >= 0) {
      pen.strokeStyle = colours.ink;
      pen.lineWidth = 1.5;
      pen.strokeRect(x(at), top, across, height - top - bottom);
    }
  }
  return {at: px => px < left ? null : last[Math.floor((px - left) / across)]?.round ?? null, low, high};
}

export const PARTS = [
  ["computes", "c0"], ["sends and receives", "c5"], ["the server works for it", "c2"], ["the server works for others", "moved"],
  ["waits for others", "soft"],
];

export function drawRows(canvas, names, rows, paint, most) {
  // Bars of parts, [[value, colour], …] a client, with a text at the end; of many clients sorted and without names.
  const there = names.map((_, place) => place).filter(place => rows.has(place));
  if (!there.length) return null;
  const many = there.length > FEW, rowHeight = many ? 0 : Math.max(15, Math.min(24, 260 / there.length));
  const height = many ? 220 : rowHeight * there.length, [pen, width] = prepared(canvas, height + 2);
  const ends = new Map(there.map(place => [place, many ? "" : rows.get(place).text]));
  const left = many ? 0 : nameRoom(pen, there.map(place => names[place]), width);
  const right = many ? 0 : Math.ceil(Math.max(...[...ends.values()].map(text => pen.measureText(text).width))) + 6;
  const room = width - left - right;
  const sorted = many ? [...there].sort((a, b) => rows.get(b).rank - rows.get(a).rank) : there;
  const step = many ? height / sorted.length : rowHeight;
  sorted.forEach((place, row) => {
    let x = left;
    const y = row * step;
    for (const [value, name] of rows.get(place).parts) {
      pen.fillStyle = colours[name];
      const length = room * value / (most || 1);
      pen.fillRect(x, many ? y : y + 3, length, many ? step + 0.5 : step - 6);
      x += length;
    }
    if (many) return;
    pen.fillStyle = colours.ink;
    pen.textAlign = "left";
    pen.fillText(fitted(pen, names[place], left - 8), 0, y + step / 2);
    pen.textAlign = "right";
    pen.fillText(ends.get(place), width, y + step / 2);
  });
  return {at: (_, y) => sorted[Math.floor(y / step)] ?? null};
}

export function drawCrowd(canvas, states, toneOf) {
  // A square for each client in the colour of its state.
  const width = canvas.parentElement.clientWidth, size = states.length > 400 ? 11 : 15;
  const columns = Math.max(8, Math.floor((width - 34) / size)), rows = Math.ceil(states.length / columns);
  const [pen] = prepared(canvas, rows * size);
  states.forEach((state, place) => {
    pen.fillStyle = colours[toneOf(state)];
    pen.fillRect((place % columns) * size, Math.floor(place / columns) * size, size - 2, size - 2);
  });
  return {at: (x, y) => {
    const place = Math.floor(y / size) * columns + Math.floor(x / size);
    return x < columns * size && place >= 0 && place < states.length ? place : null;
  }};
}

// Curves.

const plots = new Map();

export function drawCurves(holder, lines, xName, xText, onRound) {
  // lines: [{name, colour, x, y, low, high}] in percent of the model before training, whose line is zero.
  const width = holder.clientWidth, key = JSON.stringify([lines.map(line => [line.name, line.colour]), xName, width, colours]);
  const tables = lines.map(line => [line.x, line.y, line.low, line.high]);
  const data = tables.length > 1 ? uPlot.join(tables) : tables[0].map(column => [...column]);
  data.push(data[0].map(() => 0));
  const old = plots.get(holder);
  if (old && old.key === key) { old.plot.setData(data); return old.plot; }
  if (old) old.plot.destroy();
  const axis = {stroke: colours.dim, grid: {stroke: colours.line, width: 1}, ticks: {stroke: colours.line}, font: FONT, labelFont: FONT};
  const series = [{}], bands = [];
  for (const line of lines) {
    const place = series.length;
    series.push(
      {label: line.name, stroke: line.colour, width: 2, spanGaps: true, points: {show: true, size: 6, fill: line.colour}},
      {label: "low", width: 0, stroke: line.colour, points: {show: false}, spanGaps: true},
      {label: "high", width: 0, stroke: line.colour, points: {show: false}, spanGaps: true});
    if (lines.length < 5) bands.push({series: [place + 2, place + 1], fill: `${line.colour}33`});
  }
  series.push({label: "before training", stroke: colours.ink, width: 1.5, dash: [6, 4], points: {show: false}});
  const plot = new uPlot({
    width, height: 260, series, bands, legend: {show: false}, padding: [12, 14, 0, 0],
    cursor: {points: {size: 8}, drag: {x: false, y: false}, y: false},
    scales: {
      x: {time: false, range: shown => {
        const places = shown.data[0], first = places[0] ?? 0, last = places[places.length - 1] ?? 0;
        return [first, last > first ? last : first + 1]; // one evaluation alone: uPlot would show a hundred rounds
      }},
      y: {range: (_, low, high) => {
        const room = Math.max(1, 0.08 * (high - low));
        return [Math.min(0, low) - room, Math.max(0, high) + room];
      }},
    },
    axes: [
      {...axis, label: xName, labelSize: 18, size: 34, values: (_, ticks) => ticks.map(xText), incrs: xName === "round" ? [1, 2, 5, 10, 20, 50, 100, 200, 500] : undefined},
      {...axis, size: 58, values: (_, ticks) => ticks.map(tick => tick === 0 ? "before" : percent(tick / 100, Math.abs(tick) < 10 && tick % 1 ? 1 : 0))},
    ],
    hooks: {setCursor: [shown => onRound?.(shown.cursor.idx)]},
  }, data, holder);
  plots.set(holder, {key, plot});
  return plot;
}

export function dropCurves(holder) {
  plots.get(holder)?.plot.destroy();
  plots.delete(holder);
}

export const tickText = value => Number(value.toPrecision(6)).toLocaleString("en");
