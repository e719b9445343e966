// Behaviour of Tokenhub's own pages: copy buttons, tick-all boxes, tabs. No framework; textContent only.
"use strict";

function flash(button, text) {
	const before = button.textContent;
	button.textContent = text;
	window.setTimeout(() => {
		button.textContent = before;
	}, 2000);
}

async function copyFrom(button) {
	const source = document.getElementById(button.dataset.copy);
	try {
		await navigator.clipboard.writeText(source.textContent);
		flash(button, "Copied");
	} catch {
		// Without permission for the clipboard (plain http), the text is selected so that one key press copies it.
		window.getSelection().selectAllChildren(source);
		flash(button, "Press Ctrl+C");
	}
}

document.addEventListener("click", (event) => {
	const button = event.target.closest("[data-copy]");
	if (button) {
		copyFrom(button);
	}
});

document.addEventListener("change", (event) => {
	const all = event.target.closest("[data-tick-all]");
	if (all) {
		for (const box of document.querySelectorAll(`input[name="${all.dataset.tickAll}"]`)) {
			box.checked = all.checked;
		}
	}
});

function selectTab(tab) {
	const list = tab.closest("[role=tablist]");
	for (const other of list.querySelectorAll("[role=tab]")) {
		const chosen = other === tab;
		other.setAttribute("aria-selected", String(chosen));
		other.tabIndex = chosen ? 0 : -1;
		document.getElementById(other.getAttribute("aria-controls")).hidden = !chosen;
	}
}

document.addEventListener("click", (event) => {
	const tab = event.target.closest("[role=tab][aria-controls]");
	if (tab) {
		selectTab(tab);
	}
});

document.addEventListener("keydown", (event) => {
	const tab = event.target.closest?.("[role=tab][aria-controls]");
	if (!tab || !["ArrowLeft", "ArrowRight"].includes(event.key)) {
		return;
	}
	const tabs = [...tab.closest("[role=tablist]").querySelectorAll("[role=tab]")];
	const step = event.key === "ArrowRight" ? 1 : tabs.length - 1;
	const next = tabs[(tabs.indexOf(tab) + step) % tabs.length];
	selectTab(next);
	next.focus();
});

// The page after a minting form is that form's answer: loading it again would mint once more.
document.addEventListener("DOMContentLoaded", () => {
	const minted = document.querySelector("[data-replace-url]");
	if (minted) {
		window.history.replaceState(null, "", minted.dataset.replaceUrl);
	}
});

// What is shown once is gone when the page is left: the browser may keep the page itself, to be shown again by "back".
window.addEventListener("pagehide", () => {
	if (document.querySelector("[data-replace-url]")) {
		document.getElementById("content-main")?.replaceChildren();
	}
});
window.addEventListener("pageshow", (event) => {
	if (event.persisted && document.getElementById("content-main")?.childElementCount === 0) {
		window.location.reload();
	}
});

document.addEventListener("click", (event) => {
	if (event.target.closest("[data-print]")) {
		window.print();
	}
});

// A part of a page that is fetched again: where the answer comes from another address, that is the sign-in, which is a page.
document.addEventListener("htmx:beforeSwap", (event) => {
	const { xhr, requestConfig } = event.detail;
	const asked = new URL(requestConfig.path, window.location.href).pathname;
	if (xhr.responseURL && new URL(xhr.responseURL).pathname !== asked) {
		event.detail.shouldSwap = false;
		window.location.reload();
	}
});
