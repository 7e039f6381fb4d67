// Draws the curves with uPlot: each element .chart names a JSON block of the page and a series in it.
"use strict";
(() => {
  const HEIGHT = 190;
  const STEPS = [1, 2, 5].flatMap((one) => [0, 1, 2, 3, 4, 5].map((zeros) => one * 10 ** zeros)).sort((a, b) => a - b);
  const LABELS = { loss: "Loss", miou: "mIoU" };
  const charts = new Map();

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function points(element) {
    const block = document.getElementById(element.dataset.from);
    return (block && JSON.parse(block.textContent)[element.dataset.name]) || [];
  }

  function options(element, name) {
    const axis = { stroke: () => colour("--dim"), grid: { stroke: () => colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const range = name === "miou" ? () => [0, 1] : (_, __, most) => [0, (most || 1) * 1.08];
    return {
      width: Math.max(element.clientWidth, 120),
      height: HEIGHT,
      scales: { x: { time: false, range: (_, __, most) => [0, most || 1] }, y: { range } },
      axes: [{ ...axis, size: 28, space: 60, incrs: STEPS }, { ...axis, size: 44, space: 36 }],
      series: [
        { label: "Step" },
        { label: LABELS[name] || name, stroke: () => colour("--accent"), width: 2, points: { size: 6 }, value: (_, value) => (value == null ? "–" : value.toFixed(3)) },
      ],
      cursor: { y: false, drag: { x: false, y: false } },
      legend: { markers: { show: false } },
      hooks: { setCursor: [(plot) => plot.cursor.idx == null && showLast(plot)], setData: [showLast], ready: [showLast] },
    };
  }

  // What the legend says while no pointer is over the plot.
  const showLast = (plot) => plot.data[0].length && plot.setLegend({ idx: plot.data[0].length - 1 }, false);

  function draw(element) {
    const found = points(element);
    const data = [found.map((point) => point[0]), found.map((point) => point[1])];
    const title = element.parentElement.querySelector("figcaption").textContent;
    const last = found.at(-1);
    element.setAttribute("aria-label", last ? `${title}: ${last[1].toFixed(3)} at step ${last[0]}` : `${title}: no figures yet`);
    element.classList.toggle("without", !found.length);
    let plot = charts.get(element);
    if (!plot) {
      plot = new uPlot(options(element, element.dataset.name), data, element);
      charts.set(element, plot);
      sizes.observe(element);
    } else {
      plot.setData(data);
    }
  }

  const sizes = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const plot = charts.get(target);
      if (plot && target.clientWidth) plot.setSize({ width: target.clientWidth, height: HEIGHT });
    }
  });

  function drawAll() {
    for (const element of charts.keys()) {
      if (!element.isConnected) {
        charts.get(element).destroy();
        charts.delete(element);
      }
    }
    document.querySelectorAll(".chart").forEach(draw);
  }

  drawAll();
  document.body.addEventListener("htmx:afterSettle", drawAll);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach((plot) => plot.redraw()));
})();
