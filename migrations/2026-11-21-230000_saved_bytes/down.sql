ALTER TABLE increment DROP COLUMN saved_bytes;
