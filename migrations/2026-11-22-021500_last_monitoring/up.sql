-- What was last measured of a VM, as template text with its TIMESTAMP, so that lists need not look for the newest sample of
-- each; '' = nothing was yet.
ALTER TABLE vm ADD COLUMN monitoring TEXT NOT NULL DEFAULT '';
