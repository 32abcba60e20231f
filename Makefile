.PHONY: demo demo-real test test-ci test-clients test-engines test-slurms card faults golden bench

demo: ## a cluster on this machine, a deployment on it, an answer
	@sh scripts/demo

demo-real: ## the same with NeMo's own server: 16 ranks, TP8 x PP2 (a pack of 1.6 GB, then a minute)
	@sh scripts/demo --real

test: ## format, lint, types, tests; 8 minutes at most
	@sh scripts/test

test-ci: ## what is longer: faults, another Slurm, the engines' own software
	@sh scripts/test -m "long and not minutes and not engines" -n 3 --dist loadscope
	@sh scripts/test-slurms 24.11
	@sh scripts/test-clients
	@$(MAKE) --no-print-directory test-engines

test-clients: ## real clients of OpenAI's API at the gateway; 40 s
	@sh scripts/test-clients

test-engines: ## real NeMo, Triton, vLLM and transformers servers (packs of 4 GB, then ten minutes)
	@sh scripts/test-engines

test-slurms: ## the integration suite on Slurm 20.11, 24.11 and the newest, unpacked from Debian's packages
	@sh scripts/test-slurms

card: ## one card's row with its own server software: make card CARD=70b
	@sh scripts/test-engines -k "test_a_card_is_up_and_answers and $(CARD)"

faults: ## every fault ten times, those that last over a minute three times; some hours
	@sh scripts/test tests/faults tests/golden --times 10

golden: ## write the golden scripts afresh
	@sh scripts/test tests/golden --update-golden

bench: ## every benchmark, the quick way
	@for file in $$(grep -l "^def main" benchmarks/*.py); do $${PYTHON:-.venv/bin/python} $$file --quick || exit 1; done
