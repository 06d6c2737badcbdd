"""One self-contained HTML page about a run or a bench. A section is a function that takes the `Material` and returns
HTML, "" for a run that has nothing of the kind, or raises LeftOut with the reason; page.py lists them in order."""
