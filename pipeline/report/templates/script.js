"use strict";
// Adds to a page that is complete without it: sorting, filters, the theme, and what a mark says when it is pointed at.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  all(".tools, .model").forEach((element) => { element.hidden = false; });

  // Theme: the system's until the reader chooses.
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const store = { get: () => { try { return localStorage.getItem("theme"); } catch { return null; } },
                  set: (value) => { try { localStorage.setItem("theme", value); } catch { /* no storage here */ } } };
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const label = () => {
    button.textContent = dark() ? "Light theme" : "Dark theme";
    button.setAttribute("aria-pressed", String(dark()));
  };
  if (["light", "dark"].includes(store.get())) root.dataset.theme = store.get();
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; store.set(root.dataset.theme); label(); });
  system.addEventListener("change", label);
  label();

  // Sorting: header buttons; the third press brings back the first order.
  const key = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.sort ?? cell.textContent.trim();
    return text === "" ? null : Number.isNaN(Number(text)) ? text.toLowerCase() : Number(text);
  };
  const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en");
  for (const table of all("table:not(.grid)")) {
    const body = table.tBodies[0];
    const first = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const title = head.querySelector(".head");
      const press = document.createElement("button");
      press.type = "button";
      press.className = "sort";
      press.textContent = title.textContent;
      title.replaceChildren(press);
      press.addEventListener("click", () => {
        const next = { undefined: "ascending", ascending: "descending", descending: undefined }[head.getAttribute("aria-sort") ?? undefined];
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        let rows = first;
        if (next) {
          head.setAttribute("aria-sort", next);
          const sign = next === "ascending" ? 1 : -1;
          rows = [...first].sort((a, b) => {
            const [x, y] = [key(a, column), key(b, column)];
            if (x === null || y === null) return (x === null) - (y === null);  // what is not there stands last
            return sign * compare(x, y);
          });
        }
        body.append(...rows);
      });
    });
  }
  for (const field of all(".filter")) {
    const rows = [...document.getElementById(field.getAttribute("aria-controls")).tBodies[0].rows];
    field.addEventListener("input", () => {
      const wanted = field.value.trim().toLowerCase();
      rows.forEach((row) => { row.hidden = !row.textContent.toLowerCase().includes(wanted); });
    });
  }

  // Models: what is unticked disappears everywhere.
  const boxes = all(".model");
  const marks = all(".panel svg [aria-label]").filter((mark) => mark.tagName === "path" || mark.tagName === "line");
  const said = (mark) => mark.getAttribute("aria-label");
  const show = () => {
    const hidden = new Set(boxes.filter((box) => !box.checked).map((box) => box.value));
    all("[data-defence]").forEach((element) => { element.classList.toggle("off", hidden.has(element.dataset.defence)); });
    marks.forEach((mark) => { mark.classList.toggle("off", hidden.has(said(mark).split(/: |, seed /)[0])); });
  };
  boxes.forEach((box) => box.addEventListener("change", show));

  // What a mark says: under the pointer, or with the arrow keys in a plot.
  const tip = document.getElementById("tip");
  const hide = () => { tip.hidden = true; all(".at").forEach((mark) => mark.classList.remove("at")); };
  const tell = (mark) => {
    hide();
    tip.textContent = said(mark);
    tip.hidden = false;
    mark.classList.add("at");
    const [box, own] = [mark.getBoundingClientRect(), tip.getBoundingClientRect()];
    const left = Math.min(Math.max(8, box.left + box.width / 2 - own.width / 2), innerWidth - own.width - 8);
    const top = box.top - own.height - 8 > 0 ? box.top - own.height - 8 : box.bottom + 8;
    tip.style.transform = `translate(${left}px, ${top}px)`;
  };
  for (const plot of all(".panel > svg")) {
    const own = marks.filter((mark) => plot.contains(mark));
    if (!own.length) continue;
    let place = -1;
    plot.setAttribute("tabindex", "0");
    plot.addEventListener("pointerover", (event) => { if (own.includes(event.target)) tell(event.target); else hide(); });
    plot.addEventListener("pointerleave", hide);
    plot.addEventListener("blur", hide);
    plot.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key === "Escape") hide();
      const shown = own.filter((mark) => !mark.classList.contains("off"));
      if (!step || !shown.length) return;
      event.preventDefault();
      place = (place + step + shown.length) % shown.length;
      tell(shown[place]);
    });
  }
  addEventListener("scroll", hide, { passive: true });

  // Where the reader is.
  const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
  const watch = new IntersectionObserver((entries) => {
    const now = entries.find((entry) => entry.isIntersecting);
    if (!now) return;
    links.forEach((link) => link.removeAttribute("aria-current"));
    links.get(now.target.id)?.setAttribute("aria-current", "true");
  }, { rootMargin: "-10% 0px -80% 0px" });
  all("main > section").forEach((section) => watch.observe(section));
})();
