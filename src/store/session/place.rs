//! Where does a message's row lie?

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

type Unfit = Box<dyn std::error::Error + Sync + Send>;

/// A row's `ctid`, as Postgres sends it: four bytes for the block, two for the item. A hint: whoever rewrites the table
/// moves rows, and then the place is another row's or nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place([u8; 6]);

impl<'a> FromSql<'a> for Place {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Place, Unfit> {
        Ok(Place(raw.try_into()?))
    }

    accepts!(TID);
}

impl ToSql for Place {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Unfit> {
        out.put_slice(&self.0);
        Ok(IsNull::No)
    }

    accepts!(TID);
    to_sql_checked!();
}
