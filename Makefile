.PHONY: demo test test-ci faults golden bench

demo: ## a cluster on this machine, a deployment on it, an answer
	@sh scripts/demo

test: ## everything CI runs, 8 minutes at most
	@sh scripts/test

test-ci: ## what is longer
	@sh scripts/test -m "long and not minutes"

faults: ## every fault ten times, those that last over a minute three times; some hours
	@sh scripts/test tests/faults --times 10

golden: ## write the golden scripts afresh
	@sh scripts/test tests/golden --update-golden

bench: ## every benchmark, the quick way
	@for file in $$(grep -l "^def main" benchmarks/*.py); do $${PYTHON:-.venv/bin/python} $$file --quick || exit 1; done
