// Gives a keyboard what Unfold gives to a mouse only, and names what has a picture only. No framework.
"use strict";

(() => {
	// What reacts to clicks without being a button or a link that can be reached, and its name where it has no text.
	const CLICKED = [
		[".filter-open-button", ""],
		['[x-on\\:click="$dispatch(\'opencommand\')"]', ""],
		['[x-on\\:click^="switchTheme("]', ""],
		['[x-on\\:click^="adminTheme ="]', ""],
		['[x-on\\:click="openTheme = !openTheme"]', "Colour theme"],
		['span[x-on\\:click="sidebarToggle()"]', "Hide the sidebar"],
		['[x-on\\:click="handleClear()"]', "Clear the search"],
		[".delete-template", "Remove this row"],
		[".form-row .delete > div label, .form-row td.delete label", "Delete this row"],
		[".form-delete label", ""],
	];
	const NAMED = [
		['[x-on\\:click="showActions = !showActions"]', "More actions"],
		["#searchbar-submit", "Search"],
		["#searchbar", "Search"],
		["#command-submit", "Search"],
		["#search-input-command", "Search all pages"],
	];

	function improve() {
		for (const [selector, name] of CLICKED) {
			for (const part of document.querySelectorAll(selector)) {
				part.setAttribute("role", "button");
				part.tabIndex = 0;
				if (name) {
					part.setAttribute("aria-label", name);
				}
			}
		}
		for (const [selector, name] of NAMED) {
			for (const part of document.querySelectorAll(selector)) {
				part.setAttribute("aria-label", name);
			}
		}
		for (const icon of document.querySelectorAll(".material-symbols-outlined")) {
			// An icon is a word in a font: without this it is read aloud.
			if (icon.getAttribute("role") !== "button") {
				icon.setAttribute("aria-hidden", "true");
			}
		}
		for (const tip of document.querySelectorAll(".help-tooltip[aria-label]")) {
			tip.setAttribute("role", "img");
		}
	}

	document.addEventListener("DOMContentLoaded", improve);
	document.addEventListener("formset:added", improve);
	// Django's two-list selector is built when the page has loaded.
	window.addEventListener("load", () => window.setTimeout(improve));

	document.addEventListener("keydown", (event) => {
		const part = event.target;
		if (!(part instanceof Element) || part.getAttribute("role") !== "button" || part.matches("a[href], button")) {
			return;
		}
		if (event.key === "Enter" || event.key === " ") {
			event.preventDefault();
			part.click();
		}
	});
})();
