-- What else is to be known of a change, in words.
ALTER TABLE audit ADD COLUMN detail TEXT;
