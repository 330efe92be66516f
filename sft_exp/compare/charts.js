"use strict";

// Draws the specifications that the page holds, of the rows that its table shows.

// Exponential moving average with the correction for its start, as TensorBoard and W&B draw it.
function smoothed(values, weight) {
  let [sum, count] = [0, 0];
  return values.map((value) => {
    if (value === null) return null;
    sum = weight * sum + (1 - weight) * value;
    count = weight * count + (1 - weight);
    return sum / count;
  });
}

// The names of all curves, those of the fine-tuning first.
function metrics(curves) {
  const names = new Set(Object.values(curves).flatMap(Object.keys));
  const rank = (name) => (name === "finetune/loss" ? 0 : name.startsWith("pretrain/") ? 2 : 1);
  return [...names].sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
}

// The table `curves` of one metric, for the chosen rows in their order.
function lines(data, rows, metric, weight) {
  const found = [];
  for (const row of rows)
    for (const job of data.jobs.filter((job) => job.row === row))
      for (const folder of job.curves) {
        const [step, value] = (data.curves[folder] || {})[metric] || [];
        if (step) found.push({ job: job.job, line: job.line, step, value, smooth: smoothed(value, weight) });
      }
  return found;
}

function charts(data) {
  const at = (id) => document.getElementById(id);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const views = {};
  let shown = { rows: [...new Set(data.jobs.map((job) => job.row))], ticked: [] };

  const tables = {
    jobs: () => {
      const rows = new Set(shown.rows);
      return data.jobs.filter((job) => rows.has(job.row)).reverse(); // the best is drawn last, on top
    },
    curves: () => {
      const rows = shown.ticked.length ? shown.ticked : shown.rows.slice(0, data.default);
      return lines(data, rows, at("metric").value, Number(at("smoothing").value));
    },
  };
  const tableOf = (name) => (name === "curves" ? "curves" : "jobs");

  async function draw(name) {
    const spec = structuredClone(data.specs[name]);
    if (name === "curves")
      for (const { encoding } of spec.layer) {
        encoding.y.title = at("metric").value;
        if (at("logarithmic").checked) encoding.y.scale = { type: "log", nice: false };
      }
    if (name === "scatter")
      Object.assign(spec.encoding, {
        x: data.axes[at("x").value],
        y: data.axes[at("y").value],
        color: data.colours[at("colour").value],
      });
    const table = tableOf(name);
    const { view } = await vegaEmbed(
      at(name),
      { width: "container", autosize: { type: "fit-x", contains: "padding" }, ...spec,
        datasets: { [table]: tables[table]() } },
      { actions: false, renderer: "svg", config: data.themes[dark.matches ? "dark" : "light"] },
    );
    views[name] = view;
  }

  const drawAll = () => Promise.all(Object.keys(data.specs).map(draw));

  function fill(id, names, chosen) {
    at(id).replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
  }

  if (data.specs.curves) {
    fill("metric", metrics(data.curves));
    at("smoothing").addEventListener("input", () => {
      at("smoothing").nextElementSibling.value = at("smoothing").value;
      update("curves");
    });
    for (const id of ["metric", "logarithmic"]) at(id).addEventListener("change", () => draw("curves"));
  }
  if (data.specs.scatter)
    for (const [id, channel] of [["x", "x"], ["y", "y"], ["colour", "color"]]) {
      const names = Object.keys(data.axes);
      const { field } = data.specs.scatter.encoding[channel];
      fill(id, names, names.find((name) => data.axes[name].field === field));
      at(id).addEventListener("change", () => draw("scatter"));
    }

  const update = (name) => views[name]?.data(tableOf(name), tables[tableOf(name)]()).runAsync();
  document.addEventListener("rows", ({ detail }) => {
    shown = detail;
    ["curves", "parallel", "scatter"].forEach(update);
  });
  dark.addEventListener("change", drawAll);
  return drawAll();
}

if (typeof document !== "undefined") {
  const source = document.getElementById("data");
  document.querySelectorAll("table.interactive").forEach(interactive);
  Promise.resolve(source && charts(JSON.parse(source.textContent))).then(
    () => (document.body.dataset.ready = "yes"),
  );
}
