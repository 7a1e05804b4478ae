"""LISTEN that never fails, and what it rests on: PostgreSQL and psycopg2, no Odoo."""
