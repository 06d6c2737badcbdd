"""One self-contained HTML page about a run or a bench. A section is a function in sections.py or changes.py that takes
the `Material` and returns HTML, or raises LeftOut with the reason; page.py lists them in their order."""
