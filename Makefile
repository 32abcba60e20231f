.PHONY: demo test test-ci golden bench

demo: ## a cluster on this machine, a deployment on it, an answer
	@sh scripts/demo

test: ## everything CI runs, 8 minutes at most
	@sh scripts/test

test-ci: ## what is longer
	@sh scripts/test -m long

golden: ## write the golden scripts afresh
	@sh scripts/test tests/golden --update-golden

bench: ## every benchmark, the quick way
	@for file in benchmarks/[a-z]*.py; do $${PYTHON:-.venv/bin/python} $$file --quick || exit 1; done
