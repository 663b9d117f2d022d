CREATE TABLE runs (
	id VARCHAR(128) NOT NULL,
	name VARCHAR(128) NOT NULL,
	method VARCHAR(32) NOT NULL,
	status VARCHAR(16) NOT NULL,
	desired VARCHAR(16) NOT NULL,
	recipe TEXT NOT NULL,
	recipe_hash VARCHAR(64) NOT NULL,
	idempotency_key VARCHAR(200),
	inputs TEXT NOT NULL,
	step INTEGER NOT NULL,
	steps INTEGER NOT NULL,
	version INTEGER NOT NULL,
	epoch INTEGER NOT NULL,
	lease_owner VARCHAR(200),
	lease_until FLOAT NOT NULL,
	due FLOAT NOT NULL,
	waiting_since FLOAT,
	error TEXT,
	created FLOAT NOT NULL,
	updated FLOAT NOT NULL,
	PRIMARY KEY (id),
	UNIQUE (idempotency_key)
);
INSERT INTO "runs" VALUES('demo-1','demo','pmd','queued','pause','{"name":"demo","model":"/models/base","problems":{"source":"jsonl","files":["/data/problems.jsonl"],"shared_questions":false},"method":"pmd","schedule":{"steps":3,"problems_per_step":2,"rollouts_per_problem":4,"keep_weights":null},"sampling":{"temperature":1.0,"top_p":1.0,"max_tokens":512},"memory":{"levels":["experience","insight","behavior"],"transient":false,"freeze_at_step":null,"keep_attempts":16,"reflect":{"attempts_per_outcome":2,"excerpt_chars":1500,"max_notes":2},"abstract":{"clustering":"embeddings","min_support":3,"min_purity":0.6,"max_insights":12,"max_behaviors":2,"distance":0.6,"every":4,"warmup":4},"quality":{"duplicates":true,"near_duplicates":null,"leak_guard":true,"stale_after":null,"max_notes":null,"hold_out":0.0,"quarantine":false}},"retrieval":{"k":3,"min_similarity":0.1,"by_meaning":[],"alpha":0.25},"context":{"demonstrations":"any","feedback":"without_solution","conflicts":"resolve","max_chars":6000},"teacher":{"ema":0.05,"lead_gate":false},"policy":{"freeze":false},"optimizer":{"lr":0.001,"warmup_steps":0,"weight_decay":0.01,"grad_clip":1.0,"mini_batches":4,"micro_tokens":4096,"alpha":0.3,"top_k":20,"tail":true,"is_clip":2.0,"tis_clip":2.0,"clip_low":0.2,"clip_high":0.28,"dual_clip":3.0,"max_prompt_tokens":2048,"max_teacher_tokens":10240,"precision":"bf16","zero_stage":0,"checkpoint_every":1},"evaluation":{"every":10,"samples":8,"splits":["test","unseen"],"sampling":{"temperature":1.0,"top_p":1.0,"max_tokens":512}},"generator":{"model":"policy","base_url":null,"sampling":{"temperature":0.7,"top_p":1.0,"max_tokens":256}},"prompts":{"teacher":"t ü","reflect":"r","abstract":"a"},"seed":7,"max_attempts":5}','8cddf246818f2e8783ada9d32969ac66c7d2a3fdec5f2de510956f65306ec105','my-key','{"root":"file:///runs/demo-1","base":{"version":0,"uri":"file:///models/base","sha256":"1111111111111111111111111111111111111111111111111111111111111111"},"problems":{"uri":"file:///runs/problems.parquet","sha256":"0000000000000000000000000000000000000000000000000000000000000000","bytes":10,"rows":2},"prompts":{"uri":"file:///runs/prompts.parquet","sha256":"0000000000000000000000000000000000000000000000000000000000000000","bytes":10,"rows":2},"train":["a","b"],"evaluation":["c"],"bad_records":0,"bad_examples":[]}',0,3,0,0,NULL,0.0,0.0,NULL,NULL,1790000000.0,1790000000.0);
CREATE TABLE artifacts (
	run_id VARCHAR(128) NOT NULL,
	uri VARCHAR(1024) NOT NULL,
	step INTEGER NOT NULL,
	kind VARCHAR(32) NOT NULL,
	version INTEGER,
	sha256 VARCHAR(64) NOT NULL,
	bytes INTEGER,
	rows INTEGER,
	PRIMARY KEY (run_id, uri),
	FOREIGN KEY(run_id) REFERENCES runs (id)
);
CREATE TABLE events (
	run_id VARCHAR(128) NOT NULL,
	seq INTEGER NOT NULL,
	ts FLOAT NOT NULL,
	type VARCHAR(32) NOT NULL,
	payload TEXT NOT NULL,
	PRIMARY KEY (run_id, seq),
	FOREIGN KEY(run_id) REFERENCES runs (id)
);
INSERT INTO "events" VALUES('demo-1',1,1790000000.0,'run.created','{"name": "demo", "method": "pmd"}');
INSERT INTO "events" VALUES('demo-1',2,1790000000.0,'run.desired','{"desired": "pause"}');
CREATE TABLE phases (
	run_id VARCHAR(128) NOT NULL,
	step INTEGER NOT NULL,
	name VARCHAR(32) NOT NULL,
	attempt INTEGER NOT NULL,
	"key" VARCHAR(200) NOT NULL,
	service VARCHAR(16) NOT NULL,
	status VARCHAR(16) NOT NULL,
	request_hash VARCHAR(64) NOT NULL,
	result TEXT,
	facts TEXT,
	error TEXT,
	seconds FLOAT,
	submitted FLOAT NOT NULL,
	ended FLOAT,
	PRIMARY KEY (run_id, step, name, attempt),
	FOREIGN KEY(run_id) REFERENCES runs (id),
	UNIQUE ("key")
);
CREATE INDEX runs_by_age ON runs (created, id);
CREATE INDEX runs_by_status ON runs (status)
