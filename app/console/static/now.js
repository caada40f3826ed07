// The page Now: draws the plots. Nothing is requested while the tab is hidden.
(() => {
  "use strict";
  const FIGURES_EVERY_MS = 60_000;
  const HEIGHT = 190;
  const place = document.getElementById("plots");
  const language = document.documentElement.lang || undefined;
  const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  const day = new Intl.DateTimeFormat(language, { weekday: "short", day: "numeric" });
  const moment = new Intl.DateTimeFormat(language, { weekday: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  const short = new Intl.NumberFormat(language, { notation: "compact", maximumFractionDigits: 1 });
  const full = new Intl.NumberFormat(language, { maximumFractionDigits: 4 });
  const drawn = new Map();
  let figures = null;

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const faint = (value) => `color-mix(in srgb, ${value} 14%, transparent)`;
  const written = (unit, number, format) => {
    if (unit !== "ms") return format.format(number);
    return number >= 1000 ? `${format.format(number / 1000)} s` : `${Math.round(number)} ms`;
  };
  // Without a cursor the legend has names only.
  const valueOf = (unit, raw) => (self, shown, series, index) => {
    if (index === null) return "";
    return raw[index] === null ? "–" : written(unit, raw[index], full);
  };

  // Bars are stacked: each is drawn over the sum of those below it, the highest first.
  const stacked = (series) => {
    const sums = series.map((each, index) => each.values.map((value, at) => (
      value === null ? null : series.slice(0, index + 1).reduce((sum, below) => sum + (below.values[at] ?? 0), 0)
    )));
    return series.map((each, index) => ({ ...each, drawn: sums[index] })).reverse();
  };

  const optionsOf = (plot, series, width) => {
    const isBars = plot.form === "bars";
    const axis = (more) => ({
      stroke: colour("--muted"), font: "12px system-ui, sans-serif", ticks: { show: false }, grid: { stroke: colour("--line"), width: 1 }, ...more,
    });
    const whole = plot.unit === "" ? { incrs: [1, 2, 5, ...[10, 100, 1e3, 1e4, 1e5, 1e6, 1e7].flatMap((each) => [each, 2 * each, 5 * each])] } : {};
    const fromZero = (least) => ({ range: (self, low, high) => [0, Math.max(high * 1.1, least)] });
    // A bar stands to the right of its time: the last one needs room.
    const period = figures.times.length > 1 ? figures.times[1] - figures.times[0] : 60;
    const hasCounts = series.some((each) => each.axis === "count");
    return {
      width, height: HEIGHT, padding: [8, 20, 0, 0],
      scales: { x: { time: true, range: (self, first, last) => [first, last + period] }, value: fromZero({ money: 0.01, ms: 100 }[plot.unit] ?? 4), ...(hasCounts ? { count: fromZero(4) } : {}) },
      cursor: { sync: { key: "now" }, drag: { x: false, y: false }, y: false },
      legend: { live: true },
      axes: [
        axis({ grid: { show: false }, size: 28, space: 56, values: (self, ticks, index, space, step) => ticks.map((at) => (step >= 86_400 ? day : clock).format(at * 1000)) }),
        axis({ scale: "value", size: 52, space: 32, ...whole, values: (self, ticks) => ticks.map((each) => written(plot.unit, each, plot.unit === "money" && each < 10 ? full : short)) }),
        ...(hasCounts ? [axis({ scale: "count", side: 1, size: 40, space: 32, grid: { show: false }, incrs: [1, 2, 5, 10, 20, 50, 100, 1e3, 1e4, 1e5], values: (self, ticks) => ticks.map((each) => short.format(each)) })] : []),
      ],
      series: [
        { value: (self, at) => (at === null ? "" : moment.format(at * 1000)) },
        ...series.map((each) => {
          const stroke = colour(`--plot-${each.colour}`);
          const common = { label: each.label, scale: each.axis, value: valueOf(each.axis === "count" ? "" : plot.unit, each.values) };
          if (isBars) return { ...common, stroke, fill: stroke, width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.85, 48], align: 1 }) };
          return { ...common, stroke, width: 2, fill: series.length === 1 ? faint(stroke) : undefined, points: { size: 4 } };
        }),
      ],
    };
  };

  const draw = (plot) => {
    const element = place.querySelector(`[data-plot="${plot.name}"]`);
    const summary = place.querySelector(`[data-summary="${plot.name}"]`);
    if (!element) return;
    if (summary) summary.textContent = plot.summary;
    const isBars = plot.form === "bars";
    const series = isBars ? stacked(plot.series) : plot.series.map((each) => ({ ...each, drawn: each.values }));
    drawn.get(plot.name)?.destroy();
    const data = [figures.times, ...series.map((each) => each.drawn)];
    const made = new uPlot(optionsOf(plot, series, element.clientWidth), data, element);
    drawn.set(plot.name, made);
    // The legend is in the order of the page, not in that of drawing, and the time comes last.
    const rows = [...made.root.querySelectorAll(".u-legend tr")];
    const [time, ...names] = rows;
    time.parentElement.append(...(isBars ? names.reverse() : names), time);
  };

  const drawAll = () => { if (figures) figures.plots.forEach(draw); };

  const readFigures = async () => {
    try {
      // This header of htmx says that no person sent the request, so it does not keep the session alive.
      const answer = await fetch(place.dataset.figures, { headers: { "HX-Request": "true" }, redirect: "error" });
      if (!answer.ok) return;
      figures = await answer.json();
      drawAll();
    } catch {
      // The figures are requested again in a minute. Beside the sentence, the page says that it could not be refreshed.
    }
  };

  let last = Date.now();
  const refresh = () => {
    if (document.hidden || Date.now() - last < FIGURES_EVERY_MS) return;
    last = Date.now();
    readFigures();
  };
  setInterval(refresh, 1_000);
  document.addEventListener("visibilitychange", refresh);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  new ResizeObserver(() => {
    drawn.forEach((plot, name) => {
      const { clientWidth } = place.querySelector(`[data-plot="${name}"]`);
      if (clientWidth && clientWidth !== plot.width) plot.setSize({ width: clientWidth, height: HEIGHT });
    });
  }).observe(place);
  document.getElementById("without-script").hidden = true;
  readFigures();
})();
