"use strict";
(() => {
  const nodes = JSON.parse(document.getElementById("nodes").textContent);
  const svg = document.getElementById("viewport");
  const scene = document.getElementById("scene");
  const details = document.getElementById("details");
  const width = Number(svg.dataset.width);
  let scale = 1, x = 0, y = 0, held = null, moved = false;

  const place = () => scene.setAttribute("transform", `translate(${x} ${y}) scale(${scale})`);

  function fit() {
    const box = svg.getBoundingClientRect();
    scale = Math.min(0.85, box.width / width);
    x = (box.width - width * scale) / 2;
    y = 0;
    place();
  }

  function zoom(factor, cx, cy) {
    const next = Math.min(4, Math.max(0.05, scale * factor));
    x = cx - (cx - x) * next / scale;
    y = cy - (cy - y) * next / scale;
    scale = next;
    place();
  }

  function tell(node) {
    for (const other of scene.querySelectorAll(".chosen")) other.classList.remove("chosen");
    node.classList.add("chosen");
    const list = document.createElement("dl");
    for (const [key, value] of Object.entries(nodes[node.dataset.node])) {
      const term = document.createElement("dt"), text = document.createElement("dd");
      term.textContent = key;
      text.textContent = value;
      list.append(term, text);
    }
    details.replaceChildren(list);
  }

  const pointers = new Map();
  const spread = () => {
    const [a, b] = [...pointers.values()];
    return Math.hypot(a.x - b.x, a.y - b.y);
  };

  svg.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    held = pointers.size === 2 ? spread() : null;
    moved = false;
    svg.classList.add("held");
  });
  window.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const dx = event.clientX - before.x, dy = event.clientY - before.y;
    if (Math.abs(dx) + Math.abs(dy) > 2) moved = true;
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (pointers.size === 1) {
      x += dx;
      y += dy;
      place();
    } else if (held) {
      const box = svg.getBoundingClientRect(), now = spread();
      zoom(now / held, event.clientX - box.left, event.clientY - box.top);
      held = now;
    }
  });
  for (const end of ["pointerup", "pointercancel"]) {
    window.addEventListener(end, (event) => {
      pointers.delete(event.pointerId);
      svg.classList.remove("held");
    });
  }
  svg.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = svg.getBoundingClientRect();
    zoom(Math.exp(-event.deltaY / 500), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
  scene.addEventListener("click", (event) => {
    const node = event.target.closest(".node");
    if (node && !moved) tell(node);
  });
  scene.addEventListener("keydown", (event) => {
    const node = event.target.closest(".node");
    if (node && (event.key === "Enter" || event.key === " ")) {
      event.preventDefault();
      tell(node);
    }
  });
  const middle = () => svg.getBoundingClientRect();
  const buttons = {
    "zoom-in": () => zoom(1.3, middle().width / 2, middle().height / 2),
    "zoom-out": () => zoom(1 / 1.3, middle().width / 2, middle().height / 2),
    "zoom-fit": fit,
  };
  for (const [id, act] of Object.entries(buttons)) {
    document.getElementById(id).addEventListener("click", act);
  }
  window.addEventListener("resize", fit);
  // On paper there is no pan: the whole graph, as wide as the page.
  window.addEventListener("beforeprint", () => {
    scene.removeAttribute("transform");
    svg.setAttribute("viewBox", `0 0 ${width} ${svg.dataset.height}`);
  });
  window.addEventListener("afterprint", () => {
    svg.removeAttribute("viewBox");
    fit();
  });
  fit();
})();
