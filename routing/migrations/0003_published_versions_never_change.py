"""Installs the trigger that refuses to change a published version of a policy."""

from django.db import migrations

from routing.immutable import install, lift


def install_trigger(apps, schema_editor):
    install(schema_editor.connection)


def lift_trigger(apps, schema_editor):
    lift(schema_editor.connection)


class Migration(migrations.Migration):
    dependencies = [("routing", "0002_policies")]

    operations = [migrations.RunPython(install_trigger, lift_trigger)]
