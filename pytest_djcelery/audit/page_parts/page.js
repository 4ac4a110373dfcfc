"use strict";

// The page is complete without this: it only brings another order, and hides rows.
(() => {
  const table = document.querySelector("table");
  if (!table) return; // a clean report

  const headers = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  let rows = [...body.rows];
  const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  function key(row, column) {
    const first = row.cells[column].firstElementChild;
    return first.matches("data") ? Number(first.value) : first.textContent;
  }

  function compare(one, other) {
    return typeof one === "number" ? one - other : collator.compare(one, other);
  }

  // Rows with the same key stay in the order they are in, whichever the direction.
  function sort(column, direction) {
    const sign = direction === "ascending" ? 1 : -1;
    rows = rows
      .map((row) => [key(row, column), row])
      .sort(([one], [other]) => sign * compare(one, other))
      .map(([, row]) => row);
    body.replaceChildren(...rows); // at once: to move thousands one by one takes seconds
    headers.forEach((header) => header.removeAttribute("aria-sort"));
    headers[column].setAttribute("aria-sort", direction);
  }

  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => {
      const opposite = { ascending: "descending", descending: "ascending" };
      sort(column, opposite[header.getAttribute("aria-sort")] ?? header.dataset.first);
    });
    header.append(button);
  });
  table.classList.add("sortable");

  document.querySelectorAll(".fix").forEach((fix) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      const code = fix.querySelector("code");
      getSelection().selectAllChildren(code); // where the clipboard is refused, Ctrl+C copies it
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Selected";
      }
    });
    fix.append(button);
  });

  const kind = document.getElementById("kind");
  const text = document.getElementById("text");
  const known = document.getElementById("known");
  const shown = document.getElementById("shown");
  const texts = new Map(); // of rows, once they were asked for

  function textOf(row) {
    if (!texts.has(row)) texts.set(row, row.textContent.toLowerCase());
    return texts.get(row);
  }

  function filter() {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const fits =
        (!kind.value || row.dataset.kind === kind.value) &&
        (known.checked || !row.classList.contains("known")) &&
        words.every((word) => textOf(row).includes(word));
      row.hidden = !fits;
      count += fits;
    }
    const number = (each) => each.toLocaleString("en");
    shown.textContent = `${number(count)} of ${number(rows.length)} shown`;
    document.querySelectorAll("button[data-kind]").forEach((button) => {
      button.setAttribute("aria-pressed", button.dataset.kind === kind.value);
    });
  }

  kind.addEventListener("change", filter);
  text.addEventListener("input", filter);
  known.addEventListener("change", filter);
  document.querySelectorAll("button[data-kind]").forEach((button) => {
    button.hidden = false;
    button.addEventListener("click", () => {
      const pressed = button.getAttribute("aria-pressed") === "true";
      kind.value = pressed ? "" : button.dataset.kind;
      filter();
      if (!pressed) document.getElementById("findings").focus();
    });
  });
  document.querySelector(".filters").hidden = false;
  filter(); // a browser that reloads a page keeps what was typed
})();
