"use strict";
const rows = [...document.querySelectorAll("#hosts tbody tr")];
const boxes = [...document.querySelectorAll(".counts input")];
const find = document.getElementById("find");
const shown = document.getElementById("shown");
const texts = rows.map(r => r.textContent.toLowerCase());
function filter() {
	const is = new Set(boxes.filter(b => b.checked).map(b => b.value));
	const words = find.value.toLowerCase().split(/\s+/).filter(w => w);
	let n = 0;
	rows.forEach((r, i) => {
		r.hidden = !is.has(r.dataset.is) || !words.every(w => texts[i].includes(w));
		if (!r.hidden) n++;
	});
	shown.textContent = n + " of " + rows.length + " hosts shown";
}
boxes.forEach(b => b.addEventListener("change", filter));
find.addEventListener("input", filter);
filter();
