"use strict";
const groups = JSON.parse(root.querySelector("script[type='application/json']").textContent);
const blue = share => `background:rgba(37,99,235,${share.toFixed(2)})${share > .55 ? ";color:#fff" : ""}`;

function element(kind, text) {
  const made = document.createElement(kind);
  if (text !== undefined) made.append(Object.assign(document.createElement("bdi"), {textContent: text}));
  return made;
}

// One head, large: rows look, columns are looked at.
function show(group, layer, head) {
  const {names, queries, keys, values} = groups[group];
  const bytes = Uint8Array.from(atob(values[layer]), letter => letter.charCodeAt(0));
  const table = Object.assign(document.createElement("table"), {className: "kl-map kl-cells"});
  const top = table.insertRow();
  top.append(element("th"), ...keys.map(key => element("th", key)));
  queries.forEach((query, row) => {
    const line = table.insertRow();
    line.append(element("th", query));
    keys.forEach((_, column) => {
      const share = bytes[(head * queries.length + row) * keys.length + column] / 255;
      const cell = line.insertCell();
      cell.style = blue(share);
      cell.title = share.toFixed(2);
    });
  });
  const place = root.querySelector(`.kl-head[data-group="${group}"]`);
  place.querySelector("p").textContent = `${names[layer]}, head ${head}`;
  place.querySelector("table").replaceWith(table);
}

for (const image of root.querySelectorAll(".kl-model")) {
  image.title = "click a head";
  image.addEventListener("click", event => {
    const group = Number(image.dataset.group), {heads} = groups[group];
    const box = image.getBoundingClientRect(), most = Math.max(...heads);
    const layer = Math.min(Math.floor((event.clientY - box.top) / box.height * heads.length), heads.length - 1);
    const head = Math.min(Math.floor((event.clientX - box.left) / box.width * most), heads[layer] - 1);
    show(group, layer, head);
  });
}
